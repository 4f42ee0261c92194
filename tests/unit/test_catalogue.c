/*
 * test_catalogue.c - what belongs together in the store of models: entries, names, families.
 *
 * Lists are written as text, "NAME|DIGEST NAME ...", and what the catalogue makes of them is compared as
 * text too: "ID(SPELLING,SPELLING)ab" is an entry with its members and the endpoints that serve it. A
 * reference that compares every pair of models is held against it over a few hundred random lists.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/catalogue.h"
#include "../../src/pool.h"
#include "fleet.h"

#define ALL FLEET_ALL

#define A "[endpoint:a]\nurl = http://127.0.0.1:1\ntype = ollama\n"
#define B "[endpoint:b]\nurl = http://127.0.0.1:2\ntype = vllm\n"
#define C "[endpoint:c]\nurl = http://127.0.0.1:3\ntype = ollama\n"
#define D "[endpoint:d]\nurl = http://127.0.0.1:4\ntype = lm-studio\n"
enum { ENDPOINTS = 4 };

static struct endpoint *named(char name)
{
    int i = 0;
    while (endpoint_at(i)->name[0] != name) {
        i++;
    }
    return endpoint_at(i);
}

#define a_     named('a')
#define b_     named('b')
#define c_     named('c')
#define d_     named('d')
#define BIT(e) endpoint_bit(e)

static int setup(void **state)
{
    (void)state;
    return fleet_start(A B C D, ENDPOINTS);
}

static int clean(void **state)
{
    (void)state;
    for (int i = 0; i < ENDPOINTS; i++) {
        model_forget(endpoint_at(i));
    }
    assert_int_equal(pool_stats(POOL_MODEL)->used, 0);
    return 0;
}

/* A reload that writes the same endpoints in another order. */
static void reorder(const char *text)
{
    assert_int_equal(fleet_apply(text), OLLA_OK);
    assert_int_equal(endpoint_count(), ENDPOINTS);
    model_touch();
}

/* ---- the catalogue as text ----------------------------------------------------------- */

static const char *id_of(const struct model *head)
{
    static char mem[OLLA_MODEL_NAME + 16];
    struct text t = text_in(mem, sizeof(mem));
    catalogue_id(head, &t);
    assert_false(t.full);
    return text_z(&t);
}

static void show_entry(struct text *t, const struct model *head)
{
    bool first = true;
    assert_ptr_equal(head->head, head);
    text_addz(t, t->n > 0 ? " " : "");
    text_addz(t, id_of(head));
    text_char(t, '(');
    for (const struct model *m = head->members; m; m = m->next) {
        assert_ptr_equal(m->head, head);
        if (m->now.serves) {
            text_addz(t, first ? "" : ",");
            text_addz(t, m->facts.name);
            first = false;
        }
    }
    text_char(t, ')');
    for (char c = 'a'; c <= 'd'; c++) {
        if (catalogue_serves(head) & BIT(named(c))) {
            text_char(t, c);
        }
    }
}

static int compare_ids(const void *a, const void *b)
{
    char id[OLLA_MODEL_NAME + 16];
    const struct model *const *one = a, *const *other = b;
    assert_true(str_copy(id, sizeof(id), str_of(id_of(*one))));
    return model_compare(str_of(id), str_of(id_of(*other)), true);
}

/* Every entry that one of `usable` serves; those with one name by id, unless their order is looked at. */
static const char *show_entries(endpoint_set usable, bool in_order)
{
    static char mem[8192];
    static const struct model *all[OLLA_MAX_MODELS];
    struct text t = text_in(mem, sizeof(mem));
    struct model_mark mark = {.name = ""};
    size_t n = 0;
    for (const struct model *m; (m = catalogue_entry_after(&mark, usable)) != NULL; catalogue_mark(&mark, m)) {
        assert_true(model_compare(str_of(mark.name), str_of(m->facts.name), true) <= 0);
        all[n++] = m;
    }
    if (!in_order) {
        qsort(all, n, sizeof(all[0]), compare_ids);
    }
    for (size_t i = 0; i < n; i++) {
        show_entry(&t, all[i]);
    }
    assert_false(t.full);
    return text_z(&t);
}

static const char *entries_of(endpoint_set usable)
{
    return show_entries(usable, false);
}

static const char *entries(void)
{
    return show_entries(ALL, false);
}

static const char *names(endpoint_set scope, endpoint_set usable)
{
    static char mem[4096];
    struct text t = text_in(mem, sizeof(mem));
    const char *at = "";
    for (const struct model *m; (m = catalogue_name_after(at, scope, usable)) != NULL; at = m->facts.name) {
        text_addz(&t, t.n > 0 ? " " : "");
        text_addz(&t, m->facts.name);
    }
    assert_false(t.full);
    return text_z(&t);
}

/* The id of what is found, "-" for nothing. */
static const char *found(const char *id)
{
    const struct model *m = catalogue_find(str_of(id));
    assert_true(!m || m->head == m);
    return m ? id_of(m) : "-";
}

static void list(const struct endpoint *e, const char *text)
{
    (void)fleet_list(e, text);
}

/* ---- entries -------------------------------------------------------------------------- */

static void test_empty(void **state)
{
    unsigned no;
    (void)state;
    assert_string_equal(entries(), "");
    assert_string_equal(names(ALL, ALL), "");
    assert_string_equal(found("x"), "-");
    assert_string_equal(found(""), "-");
    assert_null(catalogue_family(0, &no));
}

static void test_case_does_not_matter(void **state)
{
    (void)state;
    list(d_, "QWEN3 phi");
    list(c_, "Qwen3");
    list(b_, "qwen3 Qwen3");
    assert_string_equal(entries(),
                        "phi(phi)d Qwen3(QWEN3,Qwen3,qwen3)bcd"); /* b's first spelling in the order of names */
    list(a_, "qwen3");
    assert_string_equal(entries(), "phi(phi)d qwen3(QWEN3,Qwen3,qwen3)abcd");
    assert_string_equal(names(ALL, ALL), "phi qwen3");
}

/* Spec, 3.2: types are never compared, and ":latest" is a name of its own here. */
static void test_what_is_another_name(void **state)
{
    (void)state;
    list(a_, "llama3 llama3:latest llama3:8b");
    list(b_, "llama3 llama");
    assert_string_equal(entries(),
                        "llama(llama)b llama3(llama3)ab llama3:8b(llama3:8b)a llama3:latest(llama3:latest)a");
}

static void test_one_digest_is_one_entry(void **state)
{
    (void)state;
    list(c_, "zeta|d1 mine|d1 alone|d2");
    assert_string_equal(entries(), "alone(alone)c mine(mine,zeta)c"); /* on one endpoint the alphabet decides */
    list(a_, "other|d1");
    assert_string_equal(entries(), "alone(alone)c other(mine,other,zeta)ac");
    assert_string_equal(names(ALL, ALL), "alone mine other zeta"); /* flat lists show each */
    list(b_, "Mine|d1 another|d2");
    assert_string_equal(entries(), "another(alone,another)bc other(Mine,mine,other,zeta)abc");
    list(a_, "");
    assert_string_equal(entries(), "another(alone,another)bc Mine(Mine,mine,zeta)bc");
}

static void test_digests_say_otherwise(void **state)
{
    (void)state;
    list(c_, "m|sha256:00000000ccccc1ccc");
    list(b_, "m|sha256:00000000bbbbb1bbb");
    assert_string_equal(entries(), "m(m)b m-cccc1ccc(m)c");
    list(d_, "M|sha256:00000000dddddddddd");
    assert_string_equal(entries(), "m(m)b m-cccc1ccc(m)c M-dddddddd(M)d");
    list(b_, "");
    assert_string_equal(entries(), "m(m)c M-dddddddd(M)d");
    list(a_, "M|short");
    list(d_, "");
    assert_string_equal(entries(), "M(M)a m-cccc1ccc(m)c");
    reorder(C A B D);
    assert_string_equal(entries(), "m(m)c M-short(M)a"); /* a digest of fewer digits is there as a whole */
    reorder(A B C D);
    list(c_, "m|12345678");
    assert_string_equal(entries(), "M(M)a m-12345678(m)c");
    assert_string_equal(names(ALL, ALL), "M"); /* for those who ask it is one name */
}

/* One list may hold a name twice; then the digests decide. */
static void test_both_on_one_endpoint(void **state)
{
    (void)state;
    list(b_, "m|dddddddd2 m|dddddddd1");
    assert_string_equal(entries(), "m(m)b m-ddddddd2(m)b");
    list(b_, "m m|dddddddd1");
    assert_string_equal(entries(), "m(m,m)b");
}

static void test_no_digest(void **state)
{
    (void)state;
    list(c_, "m|aaaaaaaa1 x|aaaaaaaa1");
    list(b_, "M");
    assert_string_equal(entries(), "M(m,M,x)bc"); /* M is m, and m is x */
    list(a_, "n|bbbbbbbb2 X");
    assert_string_equal(entries(), "n(n)a X(m,M,x,X)abc");
    list(c_, "");
    assert_string_equal(entries(), "M(M)b n(n)a X(X)a");
}

/* With several digests, a model without one belongs to one of them, and every entry has an id that tells it apart. */
static void test_no_digest_among_several(void **state)
{
    static const char *const first[] = {A B C D, A C B D, B A C D, B C A D, C A B D, C B A D};
    (void)state;
    list(a_, "m|dddddddd2");
    list(b_, "m");
    list(c_, "m|dddddddd1");
    for (size_t i = 0; i < OLLA_COUNT(first); i++) {
        struct model_mark mark = {.name = ""};
        char ids[2][OLLA_MODEL_NAME];
        int n = 0, plain = 0;
        reorder(first[i]);
        for (const struct model *m; (m = catalogue_entry_after(&mark, ALL)) != NULL; catalogue_mark(&mark, m)) {
            assert_true(n < 2);
            assert_true(str_copy(ids[n], sizeof(ids[n]), str_of(id_of(m))));
            plain += strcmp(ids[n], "m") == 0;
            if (strcmp(ids[n], "m") == 0) {
                assert_true(catalogue_serves(m) & BIT(endpoint_at(0))); /* of the endpoint that is configured first */
            } else {
                assert_string_equal(ids[n], catalogue_serves(m) & BIT(a_) ? "m-ddddddd2" : "m-ddddddd1");
            }
            assert_string_equal(found(ids[n]), ids[n]);
            n++;
        }
        assert_int_equal(n, 2);
        assert_int_equal(plain, 1);
    }
    reorder(A B C D);
}

/* The plain name of one entry may be another name of the next: both have to be found by their ids. */
static void test_id_that_is_an_alias_elsewhere(void **state)
{
    struct model_mark mark = {.name = ""};
    int n = 0;
    (void)state;
    list(a_, "x|dddddddd1");
    list(b_, "y|dddddddd1");
    list(c_, "y|dddddddd2");
    for (const struct model *m; (m = catalogue_entry_after(&mark, ALL)) != NULL; catalogue_mark(&mark, m)) {
        char id[OLLA_MODEL_NAME];
        assert_true(str_copy(id, sizeof(id), str_of(id_of(m))));
        assert_ptr_equal(catalogue_find(str_of(id)), m);
        n++;
    }
    assert_int_equal(n, 2);
}

/* ---- who is shown ----------------------------------------------------------------------- */

static void test_configuration_order(void **state)
{
    (void)state;
    list(a_, "NAME one|d1");
    list(b_, "Name two|d1");
    list(c_, "name");
    assert_string_equal(entries(), "NAME(NAME,Name,name)abc one(one,two)ab");
    reorder(B A C D);
    assert_string_equal(entries(), "Name(NAME,Name,name)abc two(one,two)ab");
    assert_string_equal(names(ALL, ALL), "Name one two");
    reorder(D C B A);
    assert_string_equal(entries(), "name(NAME,Name,name)abc two(one,two)ab");
    reorder(A B C D);
    assert_string_equal(entries(), "NAME(NAME,Name,name)abc one(one,two)ab");
}

/* Whether an endpoint is up does not change what its models are called. */
static void test_health_does_not_rename(void **state)
{
    (void)state;
    list(a_, "Name|dddddddd1");
    list(b_, "name|dddddddd2");
    list(c_, "name|dddddddd1");
    a_->state = ENDPOINT_OFFLINE;
    assert_string_equal(entries_of(BIT(b_) | BIT(c_)), "Name(Name,name)ac name-ddddddd2(name)b");
    assert_string_equal(entries_of(BIT(b_)), "name-ddddddd2(name)b");
    assert_string_equal(entries_of(BIT(a_)), "Name(Name,name)ac");
    assert_string_equal(entries_of(BIT(d_)), "");
    assert_string_equal(entries_of(0), "");
    assert_string_equal(names(ALL, BIT(b_)), "Name");
    a_->state = ENDPOINT_UNKNOWN;
}

static void test_names_in_a_scope(void **state)
{
    endpoint_set bc;
    (void)state;
    list(a_, "Shared only-a");
    list(b_, "SHARED only-b");
    list(c_, "shared only-c|d1");
    list(d_, "only-c|d2 Zeta");
    bc = BIT(b_) | BIT(c_);
    assert_string_equal(names(ALL, ALL), "only-a only-b only-c Shared Zeta");
    assert_string_equal(names(bc, bc), "only-b only-c SHARED"); /* of another type, that spelling never shows */
    assert_string_equal(names(bc, BIT(c_)), "only-c SHARED");   /* ... but b's does while b is down */
    assert_string_equal(names(BIT(c_), BIT(c_)), "only-c shared");
    assert_string_equal(names(ALL, BIT(d_)), "only-c Zeta");
    assert_string_equal(names(ALL, 0), "");

    assert_string_equal(catalogue_shown(model_named(STR("SHARED"), ALL), ALL)->facts.name, "Shared");
    assert_string_equal(catalogue_shown(model_named(STR("Shared"), ALL), bc)->facts.name, "SHARED");
    assert_null(catalogue_shown(model_named(STR("only-a"), ALL), bc));

    /* The name it goes on behind need not be there, nor in this spelling. */
    assert_string_equal(catalogue_name_after("ONLY-B", ALL, ALL)->facts.name, "only-c");
    assert_string_equal(catalogue_name_after("only-bb", ALL, ALL)->facts.name, "only-c");
    assert_string_equal(catalogue_name_after("shared", ALL, ALL)->facts.name, "Zeta");
    assert_null(catalogue_name_after("zeta", ALL, ALL));
}

/* ---- finding ----------------------------------------------------------------------------- */

static void test_find(void **state)
{
    (void)state;
    list(a_, "Llama3:latest|aaaaaaaa1 copy|aaaaaaaa3 Twin|aaaaaaaa3");
    list(b_, "llama3:LATEST|bbbbbbbb2 meta/Llama-3 tagged:1");
    list(c_, "mistral mistral:latest");
    assert_string_equal(found("llama3:latest"), "Llama3:latest"); /* of two, that of the endpoint that comes first */
    assert_string_equal(found("LLAMA3:LATEST"), "Llama3:latest");
    assert_string_equal(found("llama3"), "Llama3:latest");
    assert_string_equal(found("COPY"), "copy");
    assert_string_equal(found("twin"), "copy");
    assert_string_equal(found("META/llama-3"), "meta/Llama-3");
    assert_string_equal(found("mistral"), "mistral");
    assert_string_equal(found("Mistral:LATEST"), "mistral:latest");
    assert_string_equal(found("tagged"), "-");
    assert_string_equal(found("copy:latest"), "-");
    assert_string_equal(found("llama"), "-");
    assert_string_equal(found("llama3:"), "-");
    assert_string_equal(found(""), "-");
    assert_string_equal(found(":latest"), "-");
    assert_null(catalogue_find((struct str){"copy\0", 5}));
    list(a_, "");
    assert_string_equal(found("copy"), "-");
    assert_string_equal(found("llama3"), "llama3:LATEST");
}

static void test_find_suffixed(void **state)
{
    static char longest[OLLA_MODEL_NAME], entry[2 * OLLA_MODEL_NAME], id[2 * OLLA_MODEL_NAME];
    (void)state;
    list(a_, "m|0000ABCDEFG1");
    list(b_, "m|0000abcdefg2 x|short");
    list(c_, "x|tiny");
    assert_string_equal(found("m-abcdefg2"), "m-abcdefg2");
    assert_string_equal(found("M-ABCDEFG2"), "m-abcdefg2");
    assert_string_equal(found("m"), "m");
    assert_string_equal(found("m-ABCDEFG1"), "-"); /* that one has the plain name */
    assert_string_equal(found("m-bcdefg2"), "-");
    assert_string_equal(found("-abcdefg2"), "-");
    assert_string_equal(found("x-tiny"), "x-tiny");
    assert_string_equal(found("x-short"), "-");

    /* The longest name still has room for its suffix. */
    memset(longest, 'n', sizeof(longest) - 1);
    (void)snprintf(entry, sizeof(entry), "%s|0000abcdefg3", longest);
    list(a_, entry);
    (void)snprintf(entry, sizeof(entry), "%s|0000abcdefg4", longest);
    list(b_, entry);
    (void)snprintf(id, sizeof(id), "%s-abcdefg4", longest);
    assert_string_equal(found(longest), longest);
    assert_string_equal(found(id), id);
    memset(id, 'n', sizeof(id) - 1);
    assert_string_equal(found(id), "-");
}

/* ---- lists on their way -------------------------------------------------------------------- */

/* Until a list is complete, nothing of it shows, not even in what belongs together. */
static void test_unfinished_lists_do_not_show(void **state)
{
    static const char *const coming[] = {"m|dddddddd1",         "M|dddddddd0", "m|dddddddd1 q|dddddddd1",
                                         "new first|dddddddd2", "M m:latest",  "0 z"};
    char before[1024];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(coming); i++) {
        list(b_, "m");
        list(c_, "m|dddddddd2");
        list(d_, "q|dddddddd1");
        assert_true(str_copy(before, sizeof(before), str_of(entries())));
        assert_string_equal(before, "m(m,m)bc q(q)d");
        model_list_begin(a_);
        for (struct str rest = str_of(coming[i]); rest.p;) {
            assert_true(fleet_offer(a_, str_split(&rest, ' ')));
            assert_string_equal(entries(), before);
            assert_string_equal(names(ALL, ALL), "m q");
            assert_string_equal(found("M"), "m");
            assert_string_equal(found("m-ddddddd1"), "-");
            assert_string_equal(found("new"), "-");
        }
        (void)model_list_end(a_, false);
        assert_string_equal(entries(), before);
        (void)clean(NULL);
    }
}

/* A list is written in pieces: an entry that goes after it was shown takes nothing with it that comes behind. */
static void test_shown_entries_may_go(void **state)
{
    struct model_mark mark = {.name = ""};
    const struct model *first, *second;
    (void)state;
    list(a_, "m|dddddddd1");
    list(b_, "M|dddddddd2 z");
    list(c_, "m|dddddddd3");
    first = catalogue_entry_after(&mark, ALL);
    catalogue_mark(&mark, first);
    second = catalogue_entry_after(&mark, ALL);
    assert_true(second && second != first);
    for (char e = 'a'; e <= 'c'; e++) {
        if (first->now.serves & BIT(named(e))) {
            list(named(e), e == 'b' ? "z" : "");
            break;
        }
    }
    assert_ptr_equal(catalogue_entry_after(&mark, ALL), second);
    catalogue_mark(&mark, second);
    first = catalogue_entry_after(&mark, ALL);
    assert_true(first && first != second && str_ieq(str_of(first->facts.name), STR("m")));
    catalogue_mark(&mark, first);
    assert_string_equal(catalogue_entry_after(&mark, ALL)->facts.name, "z");
}

/* ---- families ------------------------------------------------------------------------------- */

/* Adds "NAME|FAMILY ..." to the list that e is sending. */
static void offer_families(const struct endpoint *e, const char *text)
{
    for (struct str rest = str_of(text); rest.n > 0;) {
        struct str family = str_split(&rest, ' '), name = str_split(&family, '|');
        struct model_facts *facts = fleet_facts(name);
        assert_true(str_copy(facts->family, sizeof(facts->family), family));
        assert_true(model_offer(e, facts, MODEL_UNKNOWN));
    }
}

static void list_families(const struct endpoint *e, const char *text)
{
    model_list_begin(e);
    offer_families(e, text);
    (void)model_list_end(e, true);
}

/* "FAMILY(NAME,NAME) ...", the unknown one as "?". */
static const char *families(void)
{
    static char mem[1024];
    struct text t = text_in(mem, sizeof(mem));
    const char *family;
    unsigned no = 12345;
    for (unsigned place = 0; (family = catalogue_family(place, &no)) != NULL; place++) {
        const struct model *m;
        bool first = true;
        text_addz(&t, place > 0 ? " " : "");
        text_addz(&t, family[0] ? family : "?");
        for (size_t i = 0; (m = model_at(i)) != NULL; i++) {
            if (m->now.serves && m->family_no == no) {
                assert_string_equal(m->facts.family, family);
                text_addz(&t, first ? "(" : ",");
                text_addz(&t, m->facts.name);
                first = false;
            }
        }
        text_addz(&t, first ? "(" : "");
        text_char(&t, ')');
    }
    assert_null(catalogue_family(1000, &no));
    assert_false(t.full);
    return text_z(&t);
}

static void test_families(void **state)
{
    (void)state;
    list_families(a_, "plain");
    assert_string_equal(families(), "?(plain)");
    list_families(a_, "aa b|zwei Z|alpha");
    assert_string_equal(families(), "zwei(b) alpha(Z) ?(aa)"); /* by their first models; the unknown comes last */
    list_families(b_, "a|alpha x|zwei y");
    assert_string_equal(families(), "alpha(a,Z) zwei(b,x) ?(aa,y)");
    list_families(b_, "x|zwei");
    assert_string_equal(families(), "zwei(b,x) alpha(Z) ?(aa)");
    list_families(a_, "x|zwei");
    assert_string_equal(families(), "zwei(x)");
    list_families(b_, "");
    list_families(a_, "");
    assert_string_equal(families(), "");
}

static void test_families_on_their_way(void **state)
{
    (void)state;
    list_families(a_, "b|zwei c|alpha");
    model_list_begin(b_);
    offer_families(b_, "aa|alpha ab|new ac");
    assert_string_equal(families(), "zwei(b) alpha(c)");
    assert_int_equal(model_list_end(b_, true), 3);
    assert_string_equal(families(), "alpha(aa,c) new(ab) zwei(b) ?(ac)");
}

/* ---- many ------------------------------------------------------------------------------------ */

/* The store full of models. */
static void fill(bool one_digest, bool one_family)
{
    char name[32];
    model_list_begin(b_);
    for (int i = 0; i < OLLA_MAX_MODELS; i++) {
        int place = (i * 7) % OLLA_MAX_MODELS; /* not in order */
        struct model_facts *facts;
        (void)snprintf(name, sizeof(name), "%s-%05d", place % 2 ? "MODEL" : "model", place);
        facts = fleet_facts(str_of(name));
        (void)snprintf(facts->digest, sizeof(facts->digest), "sha256:%08d", one_digest ? 0 : place);
        (void)snprintf(facts->family, sizeof(facts->family), "family-%d", one_family ? 0 : place);
        assert_true(model_offer(b_, facts, MODEL_UNKNOWN));
    }
    assert_int_equal(model_list_end(b_, true), OLLA_MAX_MODELS);
}

static size_t count_entries(void)
{
    struct model_mark mark = {.name = ""};
    size_t n = 0;
    for (const struct model *m; (m = catalogue_entry_after(&mark, ALL)) != NULL; catalogue_mark(&mark, m)) {
        n++;
    }
    return n;
}

static void test_many_with_one_digest(void **state)
{
    const struct model *head, *last = NULL;
    const char *at = "";
    size_t n = 0;
    (void)state;
    fill(true, true);
    assert_int_equal(count_entries(), 1);
    head = catalogue_entry_after(&(struct model_mark){.name = ""}, ALL);
    assert_string_equal(id_of(head), "model-00000");
    for (const struct model *m = head->members; m; m = m->next, n++) {
        assert_true(!last || model_compare(str_of(last->facts.name), str_of(m->facts.name), true) < 0);
        last = m;
    }
    assert_int_equal(n, OLLA_MAX_MODELS);
    assert_string_equal(found("MODEL-00500"), "model-00000");
    for (n = 0; catalogue_name_after(at, ALL, ALL); n++) {
        at = catalogue_name_after(at, ALL, ALL)->facts.name;
    }
    assert_int_equal(n, OLLA_MAX_MODELS);
}

static void test_many_families_and_digests(void **state)
{
    unsigned no;
    char want[32];
    (void)state;
    fill(false, false);
    assert_int_equal(count_entries(), OLLA_MAX_MODELS);
    for (unsigned i = 0; i < OLLA_MAX_MODELS; i++) {
        (void)snprintf(want, sizeof(want), "family-%u", i);
        assert_string_equal(catalogue_family(i, &no), want);
        assert_int_equal(model_at(i)->family_no, no);
    }
    assert_null(catalogue_family(OLLA_MAX_MODELS, &no));
    list_families(b_, ""); /* makes room first */
    list_families(b_, "last");
    assert_string_equal(families(), "?(last)");
}

/* ---- against the reference --------------------------------------------------------------------- */

static const struct {
    const char *name, *digest;
} universe[] = {
    {"a", ""},
    {"A", ""},
    {"a", "xxxxxxxx1"},
    {"A", "xxxxxxxx2"},
    {"aa", ""},
    {"b", "xxxxxxxx1"},
    {"b", "xxxxxxxx3"},
    {"B", "xxxxxxxx3"},
    {"B", ""},
    {"c", ""},
    {"C", ""},
    {"c:latest", ""},
    {"C:latest", "xx"},
    {"d", "xxxxxxxx4"},
    {"e", "xxxxxxxx4"},
    {"E", "xxxxxxxx4"},
    {"f", "xxxxxxxx5"},
    {"f", "xxxxxxxx6"},
    {"f", "xxxxxxxx7"},
    {"f", ""},
    {"F", ""},
    {"F", "xxxxxxxx5"},
    {"g", "xxxxxxxx6"},
    {"G", ""},
    {"h/i", "xxxxxxxx8"},
    {"H/i", "xxxxxxxx8"},
    {"h/i", "xxxxxxxx9"},
    {"z", "xx"},
};
enum { MODELS = OLLA_COUNT(universe) };

static uint32_t lists[ENDPOINTS];          /* what endpoint 'a' + i has told: bit k = model k */
static const struct model *stored[MODELS]; /* where it is, NULL = nobody serves it */
static int group[MODELS];                  /* the least number of all that belong together */

static bool same_name(size_t i, size_t k)
{
    return str_ieq(str_of(universe[i].name), str_of(universe[k].name));
}

static bool same_digest(size_t i, size_t k)
{
    return universe[i].digest[0] && strcmp(universe[i].digest, universe[k].digest) == 0;
}

static endpoint_set naive_serves(size_t i)
{
    endpoint_set set = 0;
    for (int e = 0; e < ENDPOINTS; e++) {
        set |= lists[e] & 1u << i ? BIT(named((char)('a' + e))) : 0;
    }
    return set;
}

/* Finds everything in the store; nothing else may be there. */
static void find_stored(void)
{
    const struct model *m;
    size_t served = 0, wanted = 0;
    for (size_t i = 0; i < MODELS; i++) {
        stored[i] = NULL;
        for (size_t at = 0; (m = model_at(at)) != NULL; at++) {
            if (strcmp(m->facts.name, universe[i].name) == 0 && strcmp(m->facts.digest, universe[i].digest) == 0) {
                assert_true(m->now.serves == naive_serves(i));
                stored[i] = m->now.serves ? m : NULL;
            }
        }
        wanted += naive_serves(i) != 0;
    }
    for (size_t at = 0; (m = model_at(at)) != NULL; at++) {
        served += m->now.serves != 0;
    }
    assert_int_equal(served, wanted);
}

static void unite(size_t i, size_t k)
{
    int from = group[i] > group[k] ? group[i] : group[k], to = group[i] + group[k] - from;
    for (size_t j = 0; j < MODELS; j++) {
        group[j] = group[j] == from ? to : group[j];
    }
}

/* True if two digests of i's name are served that differ. */
static bool has_several_digests(size_t i)
{
    size_t one = MODELS;
    for (size_t k = 0; k < MODELS; k++) {
        if (stored[k] && same_name(i, k) && universe[k].digest[0]) {
            if (one < MODELS && !same_digest(one, k)) {
                return true;
            }
            one = k;
        }
    }
    return false;
}

static void find_groups(void)
{
    for (size_t i = 0; i < MODELS; i++) {
        group[i] = (int)i;
    }
    for (size_t i = 0; i < MODELS; i++) {
        for (size_t k = 0; k < MODELS; k++) {
            bool plain = !universe[i].digest[0] && !universe[k].digest[0];
            bool one_plain = !universe[i].digest[0] || !universe[k].digest[0];
            /* Of several digests one takes all that have none: which, the catalogue decides. */
            if (stored[i] && stored[k] &&
                (same_digest(i, k) ||
                 (same_name(i, k) &&
                  (plain || (one_plain && (!has_several_digests(i) || stored[i]->head == stored[k]->head)))))) {
                unite(i, k);
            }
        }
    }
}

static int rank(endpoint_set serves)
{
    int i = 0;
    while (!(serves & BIT(endpoint_at(i)))) {
        i++;
    }
    return i;
}

/* True if i is to be shown rather than k. */
static bool comes_first(size_t i, size_t k, endpoint_set scope)
{
    int a = rank(stored[i]->now.serves & scope), b = rank(stored[k]->now.serves & scope);
    return a != b ? a < b : model_compare(str_of(universe[i].name), str_of(universe[k].name), false) < 0;
}

static void check_members(const struct model *head, int of_group)
{
    size_t n = 0, want = 0;
    for (size_t i = 0; i < MODELS; i++) {
        want += stored[i] && group[i] == of_group;
    }
    for (const struct model *m = head->members; m; m = m->next) {
        size_t i = 0;
        assert_ptr_equal(m->head, head);
        if (!m->now.serves) {
            continue;
        }
        while (i < MODELS && stored[i] != m) {
            i++;
        }
        assert_true(i < MODELS && group[i] == of_group);
        for (const struct model *other = m->next; other; other = other->next) {
            assert_ptr_not_equal(other, m);
        }
        n++;
    }
    assert_int_equal(n, want);
}

/* The id is the name, or the name with the end of a digest that the entry has. */
static void check_id(size_t head)
{
    const char *name = stored[head]->facts.name, *id = id_of(stored[head]);
    size_t n = strlen(name);
    bool shared = false, good = false;

    for (size_t i = 0; i < MODELS; i++) {
        shared = shared || (stored[i] && group[i] != group[head] && same_name(i, head));
    }
    assert_true(strncmp(id, name, n) == 0);
    if (id[n] == '\0') {
        return;
    }
    assert_true(shared && id[n] == '-');
    for (size_t i = 0; i < MODELS; i++) {
        size_t length = strlen(universe[i].digest);
        if (stored[i] && group[i] == group[head] && length > 0) {
            good = good || strcmp(id + n + 1, universe[i].digest + (length > 8 ? length - 8 : 0)) == 0;
        }
    }
    assert_true(good);
}

static void check_find(size_t i)
{
    char upper[OLLA_MODEL_NAME];
    const struct model *m = catalogue_find(str_of(universe[i].name));
    bool has_name = false;

    assert_true(m != NULL && m->head == m);
    for (size_t k = 0; k < MODELS; k++) {
        has_name = has_name || (stored[k] && stored[k]->head == m && same_name(i, k));
    }
    assert_true(has_name);
    for (size_t n = 0; n < sizeof(upper); n++) {
        char c = universe[i].name[n];
        upper[n] = (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
        if (c == '\0') {
            break;
        }
    }
    assert_ptr_equal(catalogue_find(str_of(upper)), m);
}

static void check_groups(void)
{
    static char ids[MODELS][OLLA_MODEL_NAME];
    size_t n = 0;

    find_stored();
    catalogue_settle();
    find_groups();
    for (size_t i = 0; i < MODELS; i++) {
        size_t head = i;
        for (size_t k = 0; k < MODELS && stored[i]; k++) {
            assert_true(!stored[k] || (stored[i]->head == stored[k]->head) == (group[i] == group[k]));
            head = stored[k] && group[k] == group[i] && comes_first(k, head, ALL) ? k : head;
        }
        if (!stored[i]) {
            continue;
        }
        /* Of one name with and without a digest, either may stand for all. */
        assert_string_equal(stored[i]->head->facts.name, universe[head].name);
        assert_int_equal(rank(stored[i]->head->now.serves), rank(stored[head]->now.serves));
        check_find(i);
        if (stored[i]->head == stored[i]) {
            check_members(stored[i], group[i]);
            check_id(i);
            assert_true(str_copy(ids[n], sizeof(ids[n]), str_of(id_of(stored[i]))));
            assert_ptr_equal(catalogue_find(str_of(ids[n])), stored[i]);
            for (size_t k = 0; k < n; k++) {
                assert_false(str_ieq(str_of(ids[k]), str_of(ids[n])));
            }
            n++;
        }
    }
}

static void check_entries(endpoint_set usable)
{
    struct model_mark mark = {.name = ""};
    size_t want = 0, got = 0;
    for (size_t i = 0; i < MODELS; i++) {
        want += stored[i] && stored[i]->head == stored[i] && (catalogue_serves(stored[i]) & usable);
    }
    for (const struct model *m; (m = catalogue_entry_after(&mark, usable)) != NULL; got++) {
        endpoint_set serves = 0;
        for (size_t i = 0; i < MODELS; i++) {
            serves |= stored[i] && stored[i]->head == m ? stored[i]->now.serves : 0;
        }
        assert_true(catalogue_serves(m) == serves && (serves & usable));
        assert_true(model_compare(str_of(mark.name), str_of(m->facts.name), true) <= 0);
        catalogue_mark(&mark, m);
    }
    assert_int_equal(got, want);
}

static void check_names(endpoint_set scope, endpoint_set usable)
{
    const char *at = "";
    size_t want = 0, got = 0;
    for (size_t i = 0; i < MODELS; i++) {
        bool first = true;
        for (size_t k = 0; k < MODELS; k++) {
            bool shown = stored[k] && (stored[k]->now.serves & usable);
            first = first && !(k < i && shown && same_name(i, k));
        }
        want += first && stored[i] && (stored[i]->now.serves & usable);
    }
    for (const struct model *m; (m = catalogue_name_after(at, scope, usable)) != NULL; at = m->facts.name, got++) {
        size_t best = MODELS;
        assert_true(at[0] == '\0' || model_compare(str_of(at), str_of(m->facts.name), true) < 0);
        for (size_t i = 0; i < MODELS; i++) {
            if (stored[i] && (stored[i]->now.serves & scope) &&
                str_ieq(str_of(universe[i].name), str_of(m->facts.name))) {
                best = best == MODELS || comes_first(i, best, scope) ? i : best;
            }
        }
        assert_true(best < MODELS);
        assert_string_equal(m->facts.name, universe[best].name);
    }
    assert_int_equal(got, want);
}

static void tell(int e, uint32_t set, bool ok)
{
    char text[64];
    model_list_begin(named((char)('a' + e)));
    for (size_t i = 0; i < MODELS; i++) {
        if (set & 1u << i) {
            (void)snprintf(text, sizeof(text), "%s|%s", universe[i].name, universe[i].digest);
            assert_true(fleet_offer(named((char)('a' + e)), str_of(text)));
        }
    }
    (void)model_list_end(named((char)('a' + e)), ok);
    lists[e] = ok ? set : lists[e];
}

static uint32_t random_set(void)
{
    uint32_t set = 0;
    for (uint32_t n = chance(9); n > 0; n--) {
        set |= 1u << chance(MODELS);
    }
    return set;
}

/* The same lists in another order of events: nothing that is shown may differ. */
static void check_order_of_events(void)
{
    static char before[8192];
    uint32_t told[ENDPOINTS];
    int from = (int)chance(ENDPOINTS);

    assert_true(str_copy(before, sizeof(before), str_of(show_entries(ALL, true))));
    memcpy(told, lists, sizeof(told));
    (void)clean(NULL);
    for (int i = 0; i < ENDPOINTS; i++) {
        int e = (from + i * (from % 2 ? 1 : ENDPOINTS - 1)) % ENDPOINTS;
        tell(e, random_set(), true);
        tell(e, told[e], true);
    }
    for (int i = 0; i < ENDPOINTS; i++) {
        tell(i, told[i], true);
    }
    assert_string_equal(show_entries(ALL, true), before);
}

static void test_random_against_reference(void **state)
{
    static const char *const orders[] = {A B C D, D C B A, B D A C, C A D B};
    (void)state;
    memset(lists, 0, sizeof(lists));
    for (int step = 0; step < 600; step++) {
        endpoint_set scope = (endpoint_set)chance(16);
        tell((int)chance(ENDPOINTS), random_set(), chance(5) > 0);
        if (chance(10) == 0) {
            reorder(orders[chance(OLLA_COUNT(orders))]);
        }
        check_groups();
        check_entries((endpoint_set)chance(16));
        check_names(scope, scope & (endpoint_set)chance(16));
        if (step % 10 == 0) {
            check_order_of_events();
        }
    }
    reorder(A B C D);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, clean, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_empty),
        CASE(test_case_does_not_matter),
        CASE(test_what_is_another_name),
        CASE(test_one_digest_is_one_entry),
        CASE(test_digests_say_otherwise),
        CASE(test_both_on_one_endpoint),
        CASE(test_no_digest),
        CASE(test_no_digest_among_several),
        CASE(test_id_that_is_an_alias_elsewhere),
        CASE(test_configuration_order),
        CASE(test_health_does_not_rename),
        CASE(test_names_in_a_scope),
        CASE(test_find),
        CASE(test_find_suffixed),
        CASE(test_unfinished_lists_do_not_show),
        CASE(test_shown_entries_may_go),
        CASE(test_families),
        CASE(test_families_on_their_way),
        CASE(test_many_with_one_digest),
        CASE(test_many_families_and_digests),
        CASE(test_random_against_reference),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
