/*
 * user.c - level 2: who the process is, and what it can do without.
 *
 * Invariants:
 *  - whoever becomes another user has no way back, or it is an error;
 *  - what only some systems have is behind #if; without setgroups nobody is changed.
 *
 * May include: platform.h, posix.h and system headers.
 */

/* setgroups and initgroups are not POSIX.1-2008. */
#define _GNU_SOURCE 1

#include "posix.h"

#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

/* Whether there are setgroups() and initgroups(). */
#ifndef PLAT_SETGROUPS
#ifdef __linux__
#define PLAT_SETGROUPS 1
#else
#define PLAT_SETGROUPS 0
#endif
#endif

void plat_harden(void)
{
    struct rlimit limit;

    umask(077);
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = 0; /* the hard limit stays: who looks for a fault can raise it with prlimit(1) */
    setrlimit(RLIMIT_CORE, &limit);
#ifdef __linux__
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* kernels before 3.5 do not know it */
#endif
}

/* ---- another user ------------------------------------------------------- */

struct user {
    const char *name; /* NULL = nobody has this number */
    uid_t uid;
    gid_t gid;
    bool group_given;
};

/* The highest number stands for "as it is" in some calls. */
static bool is_number(const char *text, unsigned *id)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    *id = (unsigned)n;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && n < UINT32_MAX;
}

/* These two return what is wrong, or NULL. */
static const char *find_group(const char *name, gid_t *gid)
{
    unsigned id;
    bool number = is_number(name, &id);
    const struct group *g = number ? NULL : getgrnam(name);

    if (!number && !g) {
        return "there is no such group";
    }
    *gid = number ? (gid_t)id : g->gr_gid;
    return NULL;
}

static const char *find_user(const char *who, struct user *out)
{
    char name[256];
    size_t n = strcspn(who, ":");
    unsigned id;

    n = n < sizeof(name) ? n : 0; /* what is too long is nobody's name either */
    memcpy(name, who, n);
    name[n] = '\0';
    bool number = is_number(name, &id);
    const struct passwd *p = number ? getpwuid((uid_t)id) : getpwnam(name);
    if (!p && !number) {
        return "there is no such user";
    }
    *out = (struct user){p ? p->pw_name : NULL, p ? p->pw_uid : (uid_t)id, p ? p->pw_gid : 0, who[n] == ':'};
    if (out->group_given) {
        return find_group(who + n + 1, &out->gid);
    }
    return p ? NULL : "a number without a name needs a group, too, as UID:GID";
}

static int set_groups(const struct user *u)
{
#if PLAT_SETGROUPS
    int rc = u->name ? initgroups(u->name, u->gid) : setgroups(1, &u->gid);
    return rc == 0 ? OLLA_OK : plat_fail(errno);
#else
    (void)u;
    return plat_fail_words("groups cannot be given up on this system");
#endif
}

int plat_user_check(const char *who)
{
    struct user u;
    const char *fault = find_user(who, &u);

    return fault ? plat_fail_words(fault) : OLLA_OK;
}

int plat_user_become(const char *who)
{
    struct user u;
    const char *fault = find_user(who, &u);

    if (fault) {
        return plat_fail_words(fault);
    }
    if (getuid() == u.uid && geteuid() == u.uid && (!u.group_given || (getgid() == u.gid && getegid() == u.gid))) {
        return OLLA_OK;
    }
    if (geteuid() != 0) {
        return plat_fail_words("only root can become another user");
    }
    if (set_groups(&u) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (setgid(u.gid) == -1 || setuid(u.uid) == -1) {
        return plat_fail(errno);
    }
    /* Root's rights may come in other ways than by its number: believe only that they are gone. */
    if (getuid() != u.uid || geteuid() != u.uid || getgid() != u.gid || getegid() != u.gid ||
        (u.uid != 0 && (setuid(0) == 0 || (u.gid != 0 && setgid(0) == 0)))) {
        return plat_fail_words("root's rights would not go away");
    }
    return OLLA_OK;
}
