// The dashboard. It asks olla for JSON again and again and shows what comes; it changes nothing, and keeps its history here
// only. Names of models, machines and clients come from strangers: they become text nodes and attributes, never markup.
'use strict';

const POLL = 2000, HIDDEN_POLL = 15000, LIST_POLL = 10000, LONGEST_WAIT = 30000;
// What a curve shows, at least and at most; what a rate or a latency is taken from.
const SHORT_CURVE = 60000, LONG_CURVE = 240000, RECENT = 60000;
// Models shown at one time; the field finds the others.
const ROWS = 60;

// ---- texts

const short = n => n < 9.95 ? n.toFixed(1) : String(Math.round(n));
const count = n => n < 10000 ? String(Math.round(n)).replace(/(\d)(\d{3})$/, '$1,$2') : n < 1e6 ? short(n / 1e3) + 'k' : n < 1e9 ? short(n / 1e6) + 'M' : short(n / 1e9) + 'G';
const rate = n => (n === 0 ? '0' : n < 0.05 ? '<0.1' : n < 9.95 ? n.toFixed(1) : count(n)) + '/s';
const plural = (n, word) => count(n) + ' ' + word + (n === 1 ? '' : 's');
const span = ms => ms < 999.5 ? Math.round(Math.max(0, ms)) + ' ms' : ms < 99500 ? short(ms / 1e3) + ' s' : ms < 5.4e6 ? Math.round(ms / 6e4) + ' min'
    : ms < 1.7e8 ? Math.round(ms / 3.6e6) + ' h' : Math.round(ms / 8.64e7) + ' days';
const percent = (part, whole) => (part > 0 ? part < whole / 1000 ? '<0.1' : short(100 * part / whole).replace('.0', '') : '0') + ' %';
const clock = ms => new Date(ms).toLocaleTimeString([], {hourCycle: 'h23'});
const NONE = '\u2013';

// Each state of an endpoint: how it looks, and the word for it.
const STATES = {
    healthy: ['ok', 'well'], slow: ['warn', 'slow'], busy: ['warn', 'busy'], warming: ['warn', 'warming up'], rate_limited: ['warn', 'limited'],
    trial: ['warn', 'on trial'], open: ['bad', 'left alone'], offline: ['bad', 'down'], unhealthy: ['bad', 'unwell'], config_error: ['bad', 'misconfigured'],
    unknown: ['none', 'not asked yet'], disabled: ['none', 'disabled'], asleep: ['sleep', 'asleep'], waking: ['sleep', 'waking up'],
};
const ICONS = {
    ok: 'M6 0a6 6 0 1 1 0 12A6 6 0 0 1 6 0z',
    warn: 'M6 .5 12 11.5H0zM5.3 4v4h1.4V4zm0 5v1.3h1.4V9z',
    bad: 'M2 .3 6 4.3 10 .3 11.7 2 7.7 6 11.7 10 10 11.7 6 7.7 2 11.7.3 10 4.3 6 .3 2z',
    sleep: 'M5 0a6 6 0 1 0 7 8A6 6 0 0 1 5 0z',
    none: 'M6 0a6 6 0 1 1 0 12A6 6 0 0 1 6 0zm0 1.7a4.3 4.3 0 1 0 0 8.6 4.3 4.3 0 0 0 0-8.6z',
};
// The two letters of an end.
const WHO = {C: 'the client left', c: 'the client was too slow', S: 'the server failed', s: 'the server was too slow', P: 'refused by olla',
    R: 'olla was full', K: 'olla was stopped', '-': 'the server answered with an error'};
const PHASE = {R: 'at the request', C: 'while connecting', H: 'before an answer', D: 'within the answer', L: 'at the last bytes'};

// ---- elements

const $ = id => document.getElementById(id);

function el(tag, name, ...kids) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...kids);
    return node;
}

function set(node, values) {
    for (const name in values) if (node.getAttribute(name) !== values[name]) node.setAttribute(name, values[name]);
    return node;
}

const svg = (tag, values) => set(document.createElementNS('http://www.w3.org/2000/svg', tag), values);

function icon(look) {
    const image = svg('svg', {class: 'icon', viewBox: '0 0 12 12', 'aria-hidden': 'true'});
    image.append(svg('path', {d: ICONS[look], 'fill-rule': 'evenodd'}));
    return image;
}

// Fills a node anew only if it would read differently: so what somebody selects, or hears read, stays.
function fill(node, ...kids) {
    const text = kids.map(k => k.outerHTML || k).join('\n');
    if (node.said === text) return;
    node.said = text;
    node.replaceChildren(...kids);
}

// Keeps one child for each item, in their order; make(item) is called once for each key and gives {root, show(item)}.
function keyed(parent, items, key, make) {
    const known = parent.known || new Map(), wanted = new Map();
    for (const item of items) {
        const id = key(item), child = wanted.get(id) || known.get(id) || make(item);
        wanted.set(id, child);
        child.show(item);
    }
    for (const [id, child] of known) if (!wanted.has(id)) child.root.remove();
    let next = parent.firstChild;
    for (const {root} of wanted.values()) {
        if (root === next) next = root.nextSibling;
        else parent.insertBefore(root, next);
    }
    parent.known = wanted;
}

// A label, a figure with a line below it and, if wanted, a curve.
function figure(label, curve, name) {
    const big = el('span', 'big'), sub = el('span', 'sub'), dd = el('dd', '', el('div', '', big, sub));
    const picture = curve && svg('svg', {class: 'spark', viewBox: '0 0 100 30', preserveAspectRatio: 'none', role: 'img'});
    if (curve) {
        picture.append(svg('path', {class: 'base', d: 'M0 29.5H100'}), svg('path', {class: 'area'}), svg('path', {class: 'line'}));
        dd.append(picture);
    }
    return {root: el('div', name, el('dt', '', label), dd), dd, show(value, below, bad) {
        fill(big, value);
        fill(sub, below);
        sub.classList.toggle('failed', Boolean(bad));
    }, draw(pick, most, unit) {
        draw(picture, pick, most, label, unit);
    }};
}

// pick(entry of the history) is a number, or undefined if there was none then. A poll that failed breaks the line.
function draw(picture, pick, most, label, unit) {
    const now = performance.now(), width = Math.min(LONG_CURVE, Math.max(SHORT_CURVE, now - history[0].at)), runs = [[]], values = [];
    for (const h of history) {
        const value = h.gap ? undefined : pick(h);
        if (h.gap) runs.push([]);
        if (value === undefined || h.at < now - width) continue;
        values.push(value);
        runs[runs.length - 1].push([100 * (1 - (now - h.at) / width), value]);
    }
    const high = Math.max(...values), low = Math.min(...values), scale = most || high || 1;
    let line = '', area = '';
    for (const run of runs.filter(r => r.length)) {
        if (run.length === 1) run.unshift([run[0][0] - 1.5, run[0][1]]);
        const path = run.map(([x, y]) => x.toFixed(1) + ' ' + (29 - 27 * y / scale).toFixed(1)).join('L');
        line += 'M' + path;
        area += 'M' + run[0][0].toFixed(1) + ' 29L' + path + 'V29z';
    }
    set(picture.children[1], {d: area});
    set(picture.children[2], {d: line});
    set(picture, {'aria-label': label + ', last ' + span(width) + ': ' + (values.length ? unit(low) + ' to ' + unit(high) : 'nothing')});
}

// columns: [title, class]; cells(item) gives for each a text, a node, or a list of them.
function table(parent, caption, columns, empty) {
    // Roles are said outright: what is laid out as blocks, on a phone, is not taken for a table otherwise.
    const part = (tag, role, name, ...kids) => set(el(tag, name, ...kids), {role});
    const body = part('tbody', 'rowgroup'), nothing = el('p', 'empty table', empty);
    const head = part('thead', 'rowgroup', '', part('tr', 'row', '', ...columns.map(([title, name]) => set(part('th', 'columnheader', name, title), {scope: 'col'}))));
    const root = part('table', 'table', 'table', el('caption', '', caption), head, body);
    parent.append(root, nothing);
    let cells;
    return (items, key, now) => {
        cells = now;
        root.hidden = !items.length;
        nothing.hidden = items.length > 0;
        keyed(body, items, key, () => {
            const nodes = columns.map(([title, name], i) => i ? set(part('td', 'cell', name), {'data-label': title}) : set(part('th', 'rowheader', name), {scope: 'row'}));
            return {root: part('tr', 'row', '', ...nodes), show: item => cells(item).forEach((cell, i) => fill(nodes[i], ...[].concat(cell)))};
        });
    };
}

// ---- what is known

let status = null, statusAt = 0; // the last one, and when it came
let askedAt = 0, heardAt = 0; // when olla last answered, with another one or that it is still the same; and when all was shown
let history = []; // for each poll what has changed since the one before, or {gap}
let models = [], uses = new Map();
let problem = '';

const age = () => performance.now() - statusAt;
const since = time => Date.parse(status.timestamp) + age() - Date.parse(time);

function compare(before, now) {
    const olds = new Map(before.endpoints.map(e => [e.name, e])), boxes = new Map(), sum = {served: 0, ms: 0, inflight: 0};
    for (const e of now.endpoints) {
        const old = olds.get(e.name) || e, failed = e.failed_requests - old.failed_requests, requests = e.requests - old.requests;
        const box = {requests, failed, served: requests - failed, ms: e.latency_sum_ms - old.latency_sum_ms, inflight: e.connections};
        boxes.set(e.name, box);
        for (const name in sum) sum[name] += box[name];
    }
    const a = before.system, b = now.system;
    return {boxes, ...sum, waiting: now.queue.waiting, requests: b.total_requests - a.total_requests, failed: b.total_failures - a.total_failures,
        output: b.output_tokens - a.output_tokens};
}

function remember(next, at) {
    const same = status && status.system.start_time === next.system.start_time;
    if (!same) history = [];
    history.push({at, seconds: same ? (at - askedAt) / 1000 : 0, ...compare(same ? status : next, next)});
    askedAt = at;
    while (history[0].at < at - LONG_CURVE - HIDDEN_POLL) history.shift();
}

// Over the last minute.
const recent = pick => history.reduce((sum, h) => h.gap || h.at < performance.now() - RECENT ? sum : sum + (pick(h) || 0), 0);

// Over the last ten seconds: what is to be seen at once.
function perSecond(pick) {
    let sum = 0, seconds = 0;
    for (let i = history.length - 1; i >= 0 && seconds < 9 && !history[i].gap; i--) {
        sum += pick(history[i]) || 0;
        seconds += history[i].seconds;
    }
    return seconds > 0 ? sum / seconds : 0;
}

const boxOf = e => h => h.boxes.get(e.name) || {};
const latency = of => recent(h => of(h).ms) / recent(h => of(h).served);
const mean = of => h => of(h).served > 0 ? of(h).ms / of(h).served : undefined;

// What an endpoint is, all things considered, and why. One that takes three times as long as the others do is slow.
function judge(e, latencies) {
    const mine = latencies.get(e.name), others = [...latencies].filter(([name]) => name !== e.name).map(([, ms]) => ms).sort((a, b) => a - b);
    const usual = others[others.length >> 1], b = e.breaker, is = (state, why) => ({...e, state, look: STATES[state][0], word: STATES[state][1], why});
    if (e.status !== 'healthy') return is(e.status in STATES ? e.status : 'unknown', e.reason);
    if (b.state === 'open' && b.open_for_ms > age()) return is('open', plural(b.failures, 'failure') + ' in a row, next trial in ' + span(b.open_for_ms - age()));
    if (b.state !== 'closed') return is('trial', 'the next request tells whether it works again');
    if (e.limited_for_ms > age()) return is('rate_limited', 'it wants no requests for ' + span(e.limited_for_ms - age()));
    if (mine >= 1000 && mine >= 3 * usual) return is('slow', span(mine) + ' for a request, others take ' + span(usual));
    return is('healthy', '');
}

// ---- parts of the page

function showVerdict(endpoints) {
    const used = endpoints.filter(e => e.state !== 'disabled'), of = look => used.filter(e => e.look === look), bad = of('bad'), warn = of('warn'), all = used.length;
    const [look, text] = !all ? ['bad', 'There are no endpoints'] : bad.length ? ['bad', all === 1 ? 'The only endpoint is out' : bad.length + ' of ' + plural(all, 'endpoint') + (bad.length > 1 ? ' are out' : ' is out')]
        : warn.length ? ['warn', all === 1 ? 'The endpoint needs a look' : warn.length + ' of ' + plural(all, 'endpoint') + (warn.length > 1 ? ' need' : ' needs') + ' a look']
            : of('none').length ? ['none', 'Not all endpoints have been asked yet'] : ['ok', all > 1 ? 'All ' + all + ' endpoints are well' : 'The endpoint is well'];
    fill($('verdict'), icon(look), text);
    $('verdict').className = look;
    document.title = text + ' - olla';

    const points = [...bad, ...warn].map(e => [e.look, e.name, ' is ' + e.word + (e.why && ': ' + e.why), '#ep-' + e.id]);
    const n = status.queue.waiting, errors = status.recent_errors.filter(r => since(r.time) < 300000).length;
    if (n) points.push(['warn', '', plural(n, 'request') + (n > 1 ? ' wait' : ' waits') + ' in line: the machines that could serve are full', '']);
    for (const k of status.keys) {
        const used = k.tokens_per_day && k.tokens_today / k.tokens_per_day;
        if (used >= 0.9) points.push(['warn', k.name, ' has used ' + (used < 1 ? percent(used, 1) + ' of' : 'up') + ' its tokens of today', '#keys']);
    }
    if (errors) points.push(['warn', plural(errors, 'error'), ' in the last five minutes', '#errors']);
    keyed($('points'), points, p => p[1] + p[3], () => {
        const root = el('li');
        return {root, show([look, name, text, to]) {
            root.className = look;
            fill(root, icon(look), to ? set(el('a', '', name), {href: to}) : '', text);
        }};
    });
}

const tiles = ['Requests', 'Tokens', 'Latency', 'In flight', 'Waiting', 'Failed'].map(label => figure(label, true));

function showTiles() {
    const s = status.system, q = status.queue, failed = recent(h => h.failed), ms = latency(h => h), now = history[history.length - 1];
    const flow = name => h => h.seconds > 0 ? h[name] / h.seconds : undefined, as = name => h => h[name];
    [
        [rate(perSecond(as('requests'))), count(s.total_requests) + ' in all', flow('requests'), rate],
        [rate(perSecond(as('output'))), count(s.output_tokens) + ' written, ' + count(s.input_tokens) + ' read', flow('output'), rate],
        [ms >= 0 ? span(ms) : NONE, ms >= 0 ? 'mean of the last minute' : 'nothing in the last minute', mean(h => h), span],
        [String(now.inflight), 'at the machines', as('inflight'), count],
        [String(q.waiting), 'most ' + q.max + (q.timed_out + q.refused ? ', ' + (q.timed_out + q.refused) + ' in vain' : ''), as('waiting'), count],
        [percent(failed, recent(as('requests'))), count(s.total_failures) + ' in all', as('failed'), count],
    ].forEach(([value, below, pick, unit], i) => {
        tiles[i].show(value, below);
        tiles[i].draw(pick, 0, unit);
    });
    tiles[5].dd.classList.toggle('failed', failed > 0);
}

function makeBox({id}) {
    const name = el('h3'), state = el('span', 'state'), kind = el('small'), why = el('span', 'sub'), facts = el('dl', 'facts'), more = el('summary');
    const figures = [figure('Latency', true), figure('In flight', true), figure('Speed'), figure('Requests'), figure('In memory', false, 'wide')];
    const [delay, flight, speed, requests, memory] = figures, details = el('details', '', more, facts);
    const root = set(el('li', '', el('div', 'head', name, state, kind, why), el('dl', '', ...figures.map(f => f.root)), details), {id: 'ep-' + id, tabindex: '-1'});
    let last;
    details.ontoggle = () => showFacts(facts, last);
    return {root, show(e) {
        const of = boxOf(e), ms = latency(of), l = e.latency_ms, failed = recent(h => of(h).failed);
        last = e;
        root.className = 'box ' + e.look;
        fill(name, icon(e.look), e.name);
        fill(state, e.word);
        fill(kind, (e.detected_type || e.type) + (e.version ? ' ' + e.version : ''));
        fill(why, e.why);
        fill(more, 'More', el('span', 'hidden', ' about ' + e.name));
        delay.show(ms >= 0 ? span(ms) : NONE, l.p50 ? 'p50 ' + span(l.p50) + ', p95 ' + span(l.p95) : 'nothing yet');
        delay.draw(mean(of), scale.mean, span);
        flight.show(e.max_concurrent ? e.serving + ' of ' + e.max_concurrent : String(e.connections), e.max_concurrent && e.serving >= e.max_concurrent ? 'full' : '');
        flight.draw(h => of(h).inflight || 0, scale.inflight, count);
        speed.show(e.tokens_per_second ? short(e.tokens_per_second) + ' tok/s' : NONE, e.ttft_ms.p50 ? 'first token ' + span(e.ttft_ms.p50) : '');
        requests.show(rate(perSecond(h => of(h).requests)), failed ? count(failed) + ' failed this minute' : count(e.requests) + ', ' + count(e.failed_requests) + ' failed', failed);
        fill(memory.dd, ...(e.loaded_models.length ? e.loaded_models.map(m => el('span', 'chip loaded', m)) : [el('span', 'sub', 'nothing that it tells of')]));
        if (details.open) showFacts(facts, e);
    }};
}

function showFacts(facts, e) {
    const three = p => [p.p50, p.p95, p.p99].map(span).join(', ');
    keyed(facts, [
        ['Address', e.url], ['Models', count(e.models.count)], ['Asked', e.health_check_at ? span(since(e.health_check_at)) + ' ago: ' + e.reason : 'not yet'],
        ['Priority, weight', e.priority + ', ' + e.weight], ['Failures in a row', String(e.breaker.failures)], ['Latency p50, p95, p99', three(e.latency_ms)],
        ['First token p50, p95, p99', three(e.ttft_ms)], ['Fastest, slowest', span(e.min_latency_ms) + ', ' + span(e.max_latency_ms)],
        ['Tokens', count(e.output_tokens) + ' written, ' + count(e.input_tokens) + ' read' + (e.estimated_requests ? ', partly estimated' : '')], ['Traffic', e.traffic],
        ['Noted', e.issues || 'nothing'],
    ], f => f[0], ([label]) => {
        const dd = el('dd');
        return {root: el('div', '', el('dt', '', label), dd), show: ([, text]) => fill(dd, text)};
    });
}

// One for all machines, so that their curves can be compared.
const scale = {mean: 0, inflight: 0};

function showBoxes(endpoints) {
    const seen = history.filter(h => !h.gap);
    scale.mean = Math.max(0, ...seen.flatMap(h => endpoints.map(e => mean(boxOf(e))(h) || 0)));
    scale.inflight = Math.max(0, ...seen.flatMap(h => endpoints.map(e => boxOf(e)(h).inflight || 0)));
    keyed($('boxes'), endpoints, e => e.name, makeBox);
}

function showModels(endpoints) {
    const states = new Map(endpoints.map(e => [e.name, e])), word = $('find').value.trim().toLowerCase();
    const found = models.filter(m => [m.name, m.family || '', ...(m.aliases || []), ...m.endpoints].some(text => text.toLowerCase().includes(word)));
    showModelTable(found.slice(0, ROWS), m => m.name, m => {
        const use = uses.get(m.name.toLowerCase()), facts = [m.params, m.quant, m.size, m.aliases && 'also ' + m.aliases.join(', ')].filter(Boolean).join(', ');
        return [
            [el('b', '', m.name), el('span', 'sub', facts)],
            m.max_context_length ? count(m.max_context_length / 1024) + 'k' : NONE,
            m.endpoints.map(name => {
                const e = states.get(name) || {look: 'none', loaded_models: [], word: ''}, loaded = e.loaded_models.includes(m.name);
                return el('span', 'chip ' + e.look + (loaded ? ' loaded' : ''), icon(e.look), name + (e.look !== 'ok' ? ' ' + e.word : loaded ? ' in memory' : ''));
            }),
            use ? [count(use.total_requests), el('span', 'sub', count(use.output_tokens) + ' tokens')] : NONE,
        ];
    });
    fill($('rest'), found.length > ROWS ? plural(found.length - ROWS, 'more model') : '');
}

function showKeys() {
    showKeyTable(status.keys, k => k.name, k => {
        const limit = k.tokens_per_day, meter = set(el('meter'), {max: limit, high: 0.9 * limit, value: k.tokens_today, 'aria-label': 'used of today'});
        return [
            el('b', '', k.name), [count(k.requests), el('span', 'sub', count(k.failed_requests) + ' failed')],
            [count(k.output_tokens), el('span', 'sub', count(k.input_tokens) + ' read')],
            limit ? [count(k.tokens_today) + ' of ' + count(limit), el('span', 'sub', meter, ' ' + percent(k.tokens_today, limit))] : count(k.tokens_today),
        ];
    });
}

function showErrors() {
    showErrorTable(status.recent_errors, r => r.time + r.request_id, r => {
        const end = [WHO[r.end[0]], PHASE[r.end[1]]].filter(Boolean).join(' ');
        return [
            [el('b', '', r.message.replaceAll('_', ' ') || end), el('span', 'sub', end + ' (' + r.end + ')' + (r.status ? ', status ' + r.status : ''))],
            clock(Date.parse(r.time)), [r.endpoint || 'no machine', el('span', 'sub', r.model || r.path)], [r.client, el('span', 'sub mono', r.request_id)],
        ];
    });
}

function showLimits() {
    const s = status.system, full = status.pools.filter(p => p.failed).map(p => p.name), over = status.security.violations.rate_limits;
    fill($('memory'), (s.rss_bytes / 1048576).toFixed(1) + ' MB in use, ' + (full.length ? 'reached: ' + full.join(', ') : 'no limit was reached'));
    showPoolTable(status.pools, p => p.name, p => [p.name.replaceAll('_', ' '), count(p.used), count(p.max), count(p.count), count(p.failed)]);
    fill($('about'), 'olla ' + s.version + ', up for ' + span(since(s.start_time)) + ', ' + status.proxy.balancer + ', engine ' + status.proxy.engine + ', ' + s.total_traffic + ' sent'
        + (over ? ', ' + plural(over, 'request') + ' over the limits' : '') + '. Curves of latency and of requests in flight have one scale for all machines.');
}

function show() {
    const latencies = new Map(status.endpoints.map(e => [e.name, latency(boxOf(e))]).filter(([, ms]) => ms >= 0));
    // Each keeps its place whatever becomes of it: what somebody looks at must not move away.
    const endpoints = status.endpoints.map(e => judge(e, latencies)).sort((a, b) => b.priority - a.priority || (a.name < b.name ? -1 : 1));
    showVerdict(endpoints);
    showTiles();
    showBoxes(endpoints);
    showModels(endpoints);
    showKeys();
    showErrors();
    showLimits();
}

// Once a second: how old is all this?
function showAge() {
    const old = performance.now() - heardAt, stale = heardAt ? old > 3 * pause(0) : Boolean(problem), alert = $('alert');
    document.body.classList.toggle('stale', stale);
    fill($('beat'), !stale ? heardAt ? 'live' : 'connecting' : heardAt ? span(old) + ' old' : 'no answer');
    if (stale && alert.hidden) {
        fill(alert, 'olla does not answer' + (problem && ' (' + problem + ')') + '.' + (heardAt ? ' What you see is of ' + clock(Date.now() - old) + '.' : ''));
        document.title = 'No answer - olla';
    }
    alert.hidden = !stale;
}

// ---- asking

const tags = new Map();

// The document, or null if it is still the same.
async function ask(path) {
    const reply = await fetch(path, {cache: 'no-store', signal: AbortSignal.timeout(3 * POLL), headers: tags.has(path) ? {'If-None-Match': tags.get(path)} : {}});
    if (reply.status === 304) return null;
    if (!reply.ok) throw new Error(reply.status + ': ' + (await reply.text()).slice(0, 200).trim());
    const answer = await reply.json();
    if (reply.headers.get('ETag')) tags.set(path, reply.headers.get('ETag'));
    return answer;
}

const pause = failures => failures ? Math.min(LONGEST_WAIT, POLL * 2 ** (failures - 1)) : document.hidden ? HIDDEN_POLL : POLL;
let failures = 0, timer = 0, asking = false, listsAt = -LIST_POLL, lists = '';

// Lists of models, and what was used of them: now and then, and when an endpoint has a new one.
async function askLists(now) {
    const key = status.endpoints.map(e => e.models.last_updated + e.models.count).join();
    if (now < listsAt + LIST_POLL && key === lists) return;
    const found = await ask('/internal/status/models?detailed=true&group=family'), used = await ask('/internal/stats/models');
    if (found) models = found.model_groups.flatMap(g => g.models);
    if (used) uses = new Map(used.models.map(m => [m.name.toLowerCase(), m]));
    [listsAt, lists] = [now, key];
}

async function poll() {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    try {
        const next = await ask('/internal/status'), at = performance.now();
        remember(next || status, at);
        if (next) [status, statusAt] = [next, at];
        try {
            await askLists(at);
        } finally {
            show();
        }
        [heardAt, problem, failures] = [at, '', 0];
    } catch (error) {
        failures++;
        problem = error.name === 'TimeoutError' ? 'it takes too long' : error.message;
        history.push({at: performance.now(), gap: true});
    }
    asking = false;
    showAge();
    timer = setTimeout(poll, pause(failures));
}

$('tiles').append(...tiles.map(t => t.root));
const showModelTable = table($('t-models'), 'Models', [['Model'], ['Context', 'num'], ['Where', 'full'], ['Requests', 'num']], 'None.');
const showKeyTable = table($('t-keys'), 'Use by key', [['Key'], ['Requests', 'num'], ['Tokens', 'num'], ['Today', 'num']], 'There are no keys: everybody who reaches olla may use it.');
const showErrorTable = table($('t-errors'), 'Recent errors', [['What'], ['When', 'time'], ['Where'], ['Who']], 'None since the start.');
const showPoolTable = table($('t-pools'), 'Pools', [['What'], ['Used', 'num'], ['Most', 'num'], ['Of', 'num'], ['Refused', 'num']], '');
$('find').oninput = () => status && show();
document.onvisibilitychange = () => document.hidden || poll();
addEventListener('online', poll);
setInterval(showAge, 1000);
poll();
