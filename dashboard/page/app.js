"use strict";
// The page is drawn from the newest status each second; what the reader has opened, chosen or focused stays, because only
// what differs is changed.

const STALE_MS = 5000;
const KEPT_EVENTS = 200;
const KEPT_LINES = 200;
const SVG = "http://www.w3.org/2000/svg";

let view = null;
let history = [];
let heardAt = 0;
/** By number. */
const events = new Map();
/** By process, the oldest first. */
const lines = new Map();
/** What is chosen on each timeline: { zoom, at }. */
const chosen = new Map();

const byId = (id) => document.getElementById(id);
const actions = document.body.dataset.actions === "yes";

// --- building and changing elements ---

function h(tag, attributes, ...children) {
  const namespaced = ["svg", "rect", "line", "path", "text", "g", "title"].includes(tag);
  const element = namespaced ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** Makes `old` what `fresh` is. Left as they are: what the reader opened, and where a slider stands that is in use. */
function change(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
  }
  if (old.nodeName === "INPUT" && old.value !== fresh.value && document.activeElement !== old) old.value = fresh.value;
  const theirs = [...fresh.childNodes];
  while (old.childNodes.length > theirs.length) old.lastChild.remove();
  theirs.forEach((child, place) => {
    if (place < old.childNodes.length) change(old.childNodes[place], child);
    else old.append(child);
  });
}

function section(id, content) {
  byId(id).hidden = !content;
  if (content) change(byId(id + "-body"), h("div", { id: id + "-body" }, content));
}

function table(columns, rows) {
  const head = columns.map(([name, kind]) => h("th", { scope: "col", class: kind === "num" && "num", role: "columnheader" }, name));
  return h("table", { role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, rows));
}

function row(columns, cells) {
  const cell = (content, place) => h("td", { class: columns[place][1] || null, role: "cell", "data-label": columns[place][0] }, content);
  return h("tr", { role: "row" }, cells.map(cell));
}

// --- words ---

const now = () => (view ? Date.parse(view.at) + (performance.now() - heardAt) : Date.now());
const name = (path) => path.split("/").pop();
const count = (number, thing) => `${number.toLocaleString()} ${thing}${number === 1 ? "" : "s"}`;

function bytes(number) {
  if (number === null || number === undefined) return "–";
  if (number < 1024) return `${number} B`;
  let unit = -1;
  do { number /= 1024; unit += 1; } while (number >= 1023.95 && unit < 4);
  return `${number.toFixed(number < 10 ? 1 : 0)} ${["KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

const ago = (time) => (time ? (now() - Date.parse(time) < 1500 ? "now" : `${span(now() - Date.parse(time))} ago`) : "never");
const hours = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const days = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

function clock(ms) {
  const time = new Date(ms), today = new Date(now());
  const year = time.getFullYear() === today.getFullYear() ? "" : ` ${time.getFullYear()}`;
  return time.toDateString() === today.toDateString() ? hours.format(time) : `${days.format(time)}${year} ${hours.format(time)}`;
}

/** An instant as people read it; the exact one shows on hovering. */
const instant = (time) => (time ? h("time", { datetime: time, title: time }, clock(Date.parse(time))) : "–");
const badge = (is, word) => h("span", { class: "badge", "data-is": is }, word);
const shortId = (txid) => txid.replace(/^0+(?=.)/, "");

// --- the sentence ---

function drawHero() {
  const silent = performance.now() - heardAt;
  const isStale = view === null || silent > STALE_MS;
  const state = isStale ? "unknown" : view.safe ? "safe" : "unsafe";
  const word = { unknown: "Not known", safe: "Safe", unsafe: "Not safe" }[state];
  byId("hero").dataset.state = state;
  set("word", word);
  if (isStale && view) set("sentence", `litekeep has not answered for ${span(silent)}. What is below was so at ${clock(Date.parse(view.at))}.`);
  else if (view) set("sentence", view.sentence);
  const problems = view && !isStale ? view.problems : [];
  change(byId("problems"), h("ul", { class: "problems", id: "problems", "aria-label": "What needs a look" }, problems.map((problem) => h("li", {}, problem))));
  const title = `${state === "safe" ? (view.ok ? "Safe" : "Safe, with trouble") : word} · litekeep`;
  if (document.title !== title) document.title = title;
  byId("fresh").toggleAttribute("data-stale", isStale);
  set("fresh", isStale ? "no answer" : `live, ${clock(Date.parse(view.at))}`);
  if (view) {
    set("host", view.host);
    set("foot", `litekeep ${view.version}. Times on this page are ${Intl.DateTimeFormat().resolvedOptions().timeZone || "this browser's"}.`);
  }
}

function set(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

// --- the nodes of a cluster ---

const PRESENCES = { down: [null, "down"], silent: ["bad", "silent"], gone: [null, "gone"] };
const ROLES = { primary: "good", replica: "good", promoting: "busy", fencing: "bad" };

function drawCluster(cluster) {
  const columns = [["Node", "name"], ["Role", "tight"], ["Since", "tight"], ["Heard of", "tight"], ["Epoch", "num"], ["Databases", ""], ["Why", "quiet"]];
  if (actions) columns.push(["", "tight"]);
  const leads = cluster.primary ? `${cluster.primary} leads${cluster.since ? ` since ${clock(Date.parse(cluster.since))}` : ""}${cluster.epoch === null ? "" : `, epoch ${cluster.epoch}`}` : "nobody leads";
  const facts = [
    cluster.lapsed ? badge("bad", `the lease of ${cluster.primary} has run out`) : badge(cluster.primary ? "good" : "bad", leads),
    badge(cluster.writable ? "good" : null, cluster.writable ? "applications can write on this node" : "applications cannot write on this node"),
  ];
  const rows = cluster.nodes.map((node) => {
    // Another one has led since, and it has not said what it is now.
    const isFormer = node.role === "primary" && node.epoch < cluster.epoch;
    const [is, word] = PRESENCES[node.presence] || (isFormer ? [null, "was primary"] : [ROLES[node.role] || null, node.role]);
    const isHere = node.node === cluster.node;
    const forks = node.databases.reduce((sum, database) => sum + database.forks, 0);
    const why = [node.trouble, ...node.databases.map((database) => database.trouble)].filter(Boolean);
    if (forks) why.push(`${count(forks, "fork")}: litekeep forks list there`);
    if (node.presence === "silent") why.unshift(`${node.role} when it was heard of last`);
    if (node.presence === "gone") why.unshift("litekeep cluster forget --gone forgets it");
    const databases = node.databases.map((database) => h("div", {}, `${name(database.path)} ${database.txid ? shortId(database.txid) : "none"}${database.lag_ms ? `, ${database.lag_ms < 1000 ? `${database.lag_ms} ms` : span(database.lag_ms)} behind` : ""}`));
    const cells = [isHere ? [node.node, h("span", { class: "quiet" }, " (here)")] : node.node, badge(is, word), node.since ? instant(node.since) : "–", isHere ? "now" : node.silent_ms < 10000 ? "now" : `${span(node.silent_ms)} ago`, node.epoch ?? "–", databases, why.map((one) => h("div", {}, one))];
    if (actions) {
      const canLead = node.presence === "up" && node.role === "replica" && cluster.epoch !== null;
      cells.push(canLead && h("button", { type: "button", class: "button", "data-lead": node.node, "data-here": isHere }, "Make primary"));
    }
    return row(columns, cells);
  });
  return [h("p", { class: "meta" }, facts.map((fact) => h("span", {}, fact))), table(columns, rows)];
}

/** Without an answer of the primary, what may be missing is told before it is done. */
async function lead(node, isHere) {
  if (!isHere) return fetch(`/api/handoff?to=${encodeURIComponent(node)}`, { method: "POST" });
  const answer = await fetch("/api/promote", { method: "POST" });
  if (answer.status !== 428) return answer;
  const missing = await answer.text();
  return confirm(`${missing}\nMake ${node} the primary without it?`) ? fetch("/api/promote?yes=1", { method: "POST" }) : null;
}

// --- databases ---

const PHASES = {
  following: ["good", "following every commit"], starting: ["busy", "comparing with its backup"], snapshot: ["busy", "first copy"],
  waiting: ["busy", "waiting for the file"], failing: ["bad", "failing, tries again"], fenced: ["bad", "fenced"],
  refused: ["bad", "refused"], stopped: [null, "stopped"],
};

function drawDatabase(database) {
  const [is, word] = PHASES[database.phase] || [null, database.phase];
  const isBad = !database.ok;
  const fact = (label, value, more, bad) => h("div", { "data-bad": bad }, h("dt", {}, label), h("dd", {}, value, [more].flat().filter(Boolean).map((line) => h("small", {}, line))));
  const reader = database.oldest_reader;
  const replica = database.backups.reduce((sum, backup) => sum + (backup.size_bytes || 0), 0);
  return h("article", { class: "card", "data-bad": isBad },
    h("div", { class: "head" }, h("h3", {}, name(database.path)), badge(isBad && is === "good" ? "bad" : is, isBad && is === "good" ? "needs a look" : word), h("p", { class: "path" }, database.path)),
    database.red.map((reason) => h("p", { class: "why" }, reason)),
    h("dl", { class: "facts" },
      fact("Lag", database.lag_seconds < 0.05 ? "0 s" : database.lag_seconds < 10 ? `${database.lag_seconds.toFixed(1)} s` : span(database.lag_seconds * 1000), database.lag_transactions > 0 && [count(database.lag_transactions, "transaction"), bytes(database.lag_bytes)], isBad && database.lag_seconds > 0),
      fact("Last upload", database.confirmed_at ? ago(database.confirmed_at) : "never"),
      fact("Database", bytes(database.size_bytes)),
      fact("WAL", bytes(database.wal_bytes)),
      fact(database.backups.length > 1 ? "Replicas" : "Replica", bytes(replica || null)),
      fact("Commits", database.commits.toLocaleString(), "since start"),
      fact("Oldest reader", reader ? span(now() - Date.parse(reader.since)) : "none", reader ? `${reader.command || "process"} ${reader.pid}` : "")),
    database.backups.map((backup, place) => drawBackup(database, backup, place === 0)),
    database.feeds.map(drawFeed),
    database.syncs.map(drawSync));
}

function drawFeed(feed) {
  return drawFollower(`feed ${feed.name}: ${feed.to}`, feed, [
    feed.txid ? `transaction ${shortId(feed.txid)}` : "not begun",
    feed.lag_transactions > 0 && `${count(feed.lag_transactions, "transaction")} behind`,
    feed.delivered_at && `last event ${ago(feed.delivered_at)}`,
  ]);
}

function drawCache(sync) {
  const { rows, hit_rate, stale, misses, errors } = sync.cache;
  return drawFollower(`sync ${sync.name}: cache from ${sync.other}`, sync, [
    count(rows, "row"),
    hit_rate !== null && `${(hit_rate * 100).toFixed(1)} % from here`,
    stale > 0 && `${stale} stale`,
    `${misses} from the server`,
    errors > 0 && `${errors} without an answer`,
    ...sync.paused_tables.map((paused) => badge("bad", `${paused.table} stands still`)),
  ]);
}

function drawSync(sync) {
  if (sync.cache) return drawCache(sync);
  const begun = sync.copied_rows === null ? "not begun" : `first copy: ${count(sync.copied_rows, "row")} so far`;
  return drawFollower(`sync ${sync.name}: ${sync.direction} ${{ pull: "from", both: "with" }[sync.direction] ?? "to"} ${sync.other}`, sync, [
    sync.refused_rows > 0 && badge("bad", `${count(sync.refused_rows, "row")} refused`),
    sync.txid ? `transaction ${shortId(sync.txid)}` : sync.position ? `at ${sync.position}` : begun,
    sync.lag_transactions > 0 && `${count(sync.lag_transactions, "transaction")} behind`,
    sync.confirmed_at && `last confirmed ${ago(sync.confirmed_at)}`,
    ...sync.paused_tables.map((paused) => badge("bad", `${paused.table} stands still`)),
  ]);
}

/** What follows a database: what is wrong comes first. */
function drawFollower(title, follower, facts) {
  const shown = [follower.error && badge("bad", "failing"), ...facts].filter(Boolean);
  return h("section", { class: "place" },
    h("p", { class: "url" }, title), h("p", { class: "meta" }, shown.map((fact) => h("span", {}, fact))),
    follower.error && h("p", { class: "why" }, follower.error, follower.hint ? `; ${follower.hint}` : ""));
}

/** A restore takes the first place that has what is wanted; what others have is a look further. */
function drawBackup(database, backup, isFirst) {
  const facts = [
    backup.error && badge("bad", "failing"),
    backup.unfenced && "unfenced: a second writer cannot be told apart",
    backup.waiting ? `${count(backup.waiting, "file")} waiting` : null,
    backup.durable ? `transaction ${shortId(backup.durable)}` : "nothing confirmed",
    backup.files !== null && `${count(backup.files, "file")}, ${bytes(backup.size_bytes)}`,
    backup.dollars_a_month !== null && `about $${backup.dollars_a_month.toFixed(2)} a month at S3's list price`,
    backup.listed_at && `listed ${ago(backup.listed_at)}`,
  ].filter(Boolean);
  return h("section", { class: "place" },
    h("p", { class: "url" }, backup.url), h("p", { class: "meta" }, facts.map((fact) => h("span", {}, fact))),
    isFirst ? drawTimeline(database, backup) : h("details", {}, h("summary", {}, "Restore points"), drawTimeline(database, backup)),
    drawProofs(backup));
}

function drawProofs(backup) {
  const proofs = backup.proofs;
  if (!proofs.length && !backup.listed_at) return null;
  if (!proofs.length) return h("div", { class: "proofs" }, h("h4", {}, "Verification"), h("span", { class: "quiet" }, "never proven restorable: run ", h("code", {}, "litekeep verify"), " or set ", h("code", {}, "verify = { every = \"24h\" }")));
  const mark = (proof) => h("li", { "data-bad": !proof.proven, title: `${proof.at}: ${proof.proven ? `proven, ${count(proof.pages, "page")}` : proof.reason || "failed"}` }, proof.proven ? "✓" : "✗");
  const [last] = proofs;
  return h("div", { class: "proofs" }, h("h4", {}, "Verification"),
    h("ul", { class: "strip", "aria-label": "the newest last" }, [...proofs].reverse().map(mark)),
    h("span", { class: "quiet" }, last.proven ? "proven restorable " : "failed ", instant(last.at), last.proven ? "" : `: ${last.reason || "it differs"}`));
}

// --- the timeline of restore points ---

const ZOOMS = [["10 min", 600e3], ["1 h", 3600e3], ["24 h", 86400e3], ["All", Infinity]];
const INSET = 8;

function drawTimeline(database, backup) {
  const line = history.find((one) => one.database === database.path && one.url === backup.url);
  if (!line || !line.points.length) return null;
  const key = `${line.database} ${line.url}`;
  const points = line.points.map((point) => ({ ...point, ms: Date.parse(point.time) }));
  const first = points[0].ms, last = points.at(-1).ms;
  const choice = chosen.get(key) || { zoom: "All", at: null };
  const width = Math.max(260, document.querySelector(".rail")?.clientWidth || Math.min(1070, document.body.clientWidth) - (document.body.clientWidth > 680 ? 98 : 62));
  const zoom = ZOOMS.find(([label]) => label === choice.zoom)[1];
  // Nothing has changed since the last point, so that is the state of every later instant too.
  const end = Math.max(now(), last, first + 1000), begin = Math.max(Math.min(first, end - 1000), end - zoom);
  const x = (ms) => INSET + ((ms - begin) / (end - begin)) * (width - 2 * INSET);
  const inside = (ms) => ms >= begin && ms <= end;
  const shown = points.filter((point) => inside(point.ms));
  // At the right end it stands for the newest state, whatever that is.
  const at = choice.at === null ? points.at(-1) : points.findLast((point) => point.ms <= choice.at) || points[0];
  const left = Math.max(begin, first);

  const bar = (kind, from, to) => h("rect", { class: kind, x: x(from), y: 22, width: Math.max(2, x(to) - x(from)), height: 22, rx: 4 });
  const safe = Math.max(left, Math.min(end, now() - database.lag_seconds * 1000));
  const isBehind = !database.ok && end - safe > 1000;
  const parts = [bar("idle", left, isBehind ? safe : end)];
  if (last > begin) parts.push(bar("span", left, last));
  const dense = line.any_second_since && Math.max(begin, Date.parse(line.any_second_since));
  if (dense && dense < last) parts.push(bar("dense", dense, last));
  let drawn = -9;
  for (const point of shown) {
    if (x(point.ms) - drawn < 2.5) continue;
    drawn = x(point.ms);
    parts.push(h("line", { class: "tick", x1: drawn, x2: drawn, y1: 27, y2: 39 }));
  }
  for (const gap of line.gaps) {
    const missing = `gap: transactions ${shortId(gap.first_missing)} to ${shortId(gap.last_missing)} are missing`;
    parts.push(drawGap(gap.from ? Date.parse(gap.from) : begin, gap.to ? Date.parse(gap.to) : end, missing, x, begin, end));
  }
  if (isBehind) parts.push(drawGap(safe, end, "not in the backup", x, begin, end));
  for (const point of shown.filter((point) => point.snapshot)) {
    parts.push(h("path", { class: "snapshot", d: `M${x(point.ms)} 6l6 6l-6 6l-6 -6z` }, h("title", {}, `snapshot, ${clock(point.ms)}`)));
  }
  const marks = (database.migrations?.marks || []).filter((mark) => inside(Date.parse(mark.at)));
  for (const mark of marks) {
    const place = x(Date.parse(mark.at));
    parts.push(h("line", { class: "pole", x1: place, x2: place, y1: 8, y2: 56 }), h("path", { class: "migration", d: `M${place} 46h9l-3 4l3 4h-9z` }, h("title", {}, `migration ${mark.versions.join(", ")}, ${clock(Date.parse(mark.at))}`)));
  }
  const deploys = view.deploys.filter((deploy) => inside(Date.parse(deploy.at)));
  for (const deploy of deploys) {
    const place = x(Date.parse(deploy.at));
    parts.push(h("line", { class: "pole deployed", x1: place, x2: place, y1: 16, y2: 57 }), h("path", { class: "deploy", d: `M${place} 56l4 7h-8z` }, h("title", {}, `new runs of ${deploy.processes.join(", ")}, ${clock(Date.parse(deploy.at))}`)));
  }
  const labels = width > 620 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1];
  for (const part of labels) {
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    parts.push(h("text", { x: part === 0 ? 0 : part === 1 ? width : x(begin + part * (end - begin)), y: 76, "text-anchor": anchor }, clock(begin + part * (end - begin))));
  }
  const summary = `${count(points.length, "restore point")} from ${clock(first)} to ${clock(last)}`;
  const zooms = ZOOMS.map(([label]) => h("button", { type: "button", "data-zoom": label, "data-key": key, "aria-pressed": String(label === choice.zoom) }, label));
  return h("div", { class: "times" },
    h("div", { class: "head" }, h("h4", {}, summary), h("div", { class: "zoom", role: "group", "aria-label": "shown span" }, zooms)),
    h("div", { class: "rail" }, h("svg", { viewBox: `0 0 ${width} 78`, role: "img", "aria-label": summary + (line.gaps.length ? `, ${count(line.gaps.length, "gap")}` : "") }, parts),
      h("input", { type: "range", "data-key": key, "aria-label": "restore point", min: begin, max: end, step: Math.max(1, Math.round((end - begin) / 2000)), value: choice.at === null ? end : Math.max(begin, choice.at), "aria-valuetext": clock(at.ms) })),
    h("p", { class: "key" },
      h("span", {}, h("i", { class: "k-tick" }, "❘"), "restore point"), h("span", {}, h("i", { class: "k-snapshot" }, "◆"), "snapshot"),
      line.any_second_since && h("span", {}, "shaded: any second"),
      marks.length > 0 && h("span", {}, h("i", { class: "k-migration" }, "⚑"), "migration"),
      deploys.length > 0 && h("span", {}, h("i", { class: "k-deploy" }, "▲"), "deploy"),
      (line.gaps.length > 0 || isBehind) && h("span", {}, h("i", { class: "k-gap" }, "▨"), "cannot be restored")),
    h("div", { class: "restore" }, h("p", {}, "Restore ", h("b", {}, clock(at.ms)), ` (${ago(at.time)}, transaction ${shortId(at.txid)}) into a file beside the database:`),
      h("div", { class: "command" }, h("code", {}, line.restore + at.txid), h("button", { type: "button", class: "button", "data-copy": line.restore + at.txid }, "Copy"))));
}

function drawGap(from, to, title, x, begin, end) {
  if (to < begin || from > end) return [];
  const left = x(Math.max(begin, from)), right = Math.max(x(Math.min(end, to)), left + 6), stripes = [];
  for (let at = left + 3; at < right - 3; at += 7) stripes.push(h("line", { class: "hatch", x1: at, x2: Math.min(at + 5, right), y1: 44, y2: 22 }));
  return h("g", {}, h("rect", { class: "gap", x: left, y: 22, width: right - left, height: 22 }), stripes,
    h("title", {}, title));
}

// --- processes, migrations, jobs, events ---

const STATES = { healthy: "good", completed: "good", unhealthy: "bad", failed: "bad", backing_off: "bad", starting: "busy", waiting: "busy", stopping: "busy" };

function drawProcesses(processes) {
  const columns = [["Process", "name"], ["State", "tight"], ["For", "tight"], ["Probe", "tight"], ["PID", "num"], ["Restarts", "num"], ["Why", "quiet"]];
  if (actions) columns.push(["", "tight"]);
  const rows = processes.flatMap((process) => {
    let why = process.reason;
    if (process.needs_reload) why = "its settings have changed: litekeep reload";
    else if (!why && process.restarts) why = `restarted because: ${process.restart_reason}`;
    const cells = [process.name, badge(STATES[process.state] || null, process.state.replace("_", " ")), span(now() - Date.parse(process.since)), drawProbe(process.health || process.liveness), process.pid ?? "–", process.restarts, why];
    if (actions) cells.push(h("button", { type: "button", class: "button", "data-restart": process.name }, "Restart"));
    const printed = lines.get(process.name) || [];
    const words = view.last_words.find((own) => own.process === process.name)?.lines || [];
    const isRed = STATES[process.state] === "bad";
    const facts = [process.instance && `instance ${process.instance}`, process.started && `running since ${clock(Date.parse(process.started))}`, process.last_exit && `last run: ${process.last_exit}`, ...["health", "liveness"].filter((check) => process[check]).map((check) => `${check} asked ${ago(process[check].at)}: ${process[check].ok ? "good" : "bad"}`)].filter(Boolean);
    const output = printed.length ? printed.map((line) => h("span", { class: line.stream === "stderr" && "err" }, line.line + "\n")) : words.map((line) => h("span", { class: "err" }, line + "\n"));
    const more = h("details", { "data-of": process.name, open: isRed && words.length > 0 }, h("summary", {}, "Output"), h("p", { class: "meta" }, facts.map((fact) => h("span", {}, fact))), output.length ? h("pre", { tabindex: "0", "aria-label": `output of ${process.name}` }, output) : h("p", { class: "empty" }, "It has printed nothing."));
    return [row(columns, cells), h("tr", { class: "more", role: "row" }, h("td", { colspan: columns.length, role: "cell" }, more))];
  });
  return table(columns, rows);
}

/** How long the last answer took, and when that was. */
function drawProbe(probe) {
  if (!probe) return "";
  const took = probe.took_ms < 10 ? probe.took_ms.toFixed(1) : Math.round(probe.took_ms).toLocaleString();
  return h("span", { class: probe.ok ? null : "wrong", title: probe.at }, `${took} ms, ${ago(probe.at)}`);
}

function drawMigrations(databases) {
  const columns = [["Migration", "name"], ["Database", "quiet"], ["State", "tight"]];
  const rows = databases.flatMap((database) => {
    const own = database.migrations;
    if (own.error) return [row(columns, ["–", name(database.path), badge("bad", own.error)])];
    if (own.command) {
      const last = own.marks.at(-1);
      return [row(columns, [own.command, name(database.path), badge(null, last ? `changed it ${ago(last.at)}` : "has changed nothing yet")])];
    }
    const is = { applied: "good", pending: "busy", missing: "bad" };
    return own.migrations.map((one) => row(columns, [`${one.version} ${one.name || "(no file)"}`, name(database.path), badge(is[one.state], one.state)])).reverse();
  });
  return rows.length ? table(columns, rows) : h("p", { class: "empty" }, "None yet.");
}

function drawJobs(jobs) {
  const columns = [["Job", "name"], ["Schedule", "quiet"], ["Next", "tight"], ["Last", ""], ["Runs, the newest last", "tight"]];
  const rows = jobs.map((job) => {
    const [last] = job.history;
    const next = job.running_since ? badge("busy", `running for ${span(now() - Date.parse(job.running_since))}`) : job.next_due ? h("time", { datetime: job.next_due, title: clock(Date.parse(job.next_due)) }, `in ${span(Date.parse(job.next_due) - now())}`) : "never";
    const mark = (run) => h("li", { "data-bad": run.started && !run.ok, "data-idle": !run.started, title: `${run.ended}: ${run.outcome}` }, !run.started ? "–" : run.ok ? "✓" : "✗");
    const said = last && [badge(!last.started ? null : last.ok ? "good" : "bad", last.outcome), h("div", { class: "quiet" }, `${ago(last.ended)}${last.last_words ? `: ${last.last_words}` : ""}`)];
    return row(columns, [job.name, job.schedule, next, h("div", {}, said || "not yet"), h("ul", { class: "strip" }, job.history.slice(0, 14).reverse().map(mark))]);
  });
  return table(columns, rows);
}

const KINDS = { crashed: "bad", failed: "bad", reload_failed: "bad", job_failed: "bad", unready: "bad", warning: "busy", job_skipped: "busy", ready: "good", job_ended: "good", reloaded: "good" };

function drawEvents() {
  const columns = [["Time", "tight"], ["What", "tight"], ["Name", "name"], ["Details", "quiet"]];
  const newest = [...events.values()].sort((a, b) => b.number - a.number).slice(0, KEPT_EVENTS);
  return table(columns, newest.map((event) => row(columns, [instant(event.time), badge(KINDS[event.kind] || null, event.kind.replaceAll("_", " ")), event.name, event.text])));
}

function draw() {
  drawHero();
  if (!view) return;
  const more = view.more_databases > 0 && h("p", { class: "card quiet" }, `${count(view.more_databases, "more database")}, none of them in trouble unless the top of this page says so.`);
  section("cluster", view.cluster && drawCluster(view.cluster));
  section("databases", view.databases.length > 0 && [view.databases.map(drawDatabase), more]);
  section("processes", view.stack?.processes.length && drawProcesses(view.stack.processes));
  const migrated = view.databases.filter((database) => database.migrations);
  section("migrations", migrated.length && drawMigrations(migrated));
  section("jobs", view.stack?.jobs.length && drawJobs(view.stack.jobs));
  section("events", events.size && drawEvents());
}

// --- what the reader does ---

document.addEventListener("input", (event) => {
  const key = event.target.dataset.key;
  if (!key) return;
  const isEnd = Number(event.target.value) >= Number(event.target.max) - Number(event.target.step);
  chosen.set(key, { ...(chosen.get(key) || { zoom: "All" }), at: isEnd ? null : Number(event.target.value) });
  draw();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { zoom, key, copy, restart, lead: node, here } = button.dataset;
  if (zoom) {
    chosen.set(key, { at: null, ...chosen.get(key), zoom });
    draw();
  } else if (copy) {
    const done = await copied(copy, button);
    button.textContent = done ? "Copied" : "Select and copy";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } else if (restart && confirm(`Restart ${restart}?`)) {
    const answer = await fetch(`/api/restart?process=${encodeURIComponent(restart)}`, { method: "POST" });
    if (!answer.ok) alert(await answer.text());
  } else if (node && confirm(`Make ${node} the primary?`)) {
    const answer = await lead(node, here !== undefined);
    const said = answer && await answer.text();
    if (said) alert(said);
  }
});

/** The clipboard belongs to secure pages; elsewhere the text is selected. */
async function copied(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    return document.execCommand("copy");
  }
}

// --- where it comes from ---

function hear(status) {
  view = status;
  heardAt = performance.now();
}

/** Redraws once for all that came together. */
let isDue = false;
function soon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => { isDue = false; draw(); }, 50);
}

let listedAt = "";
async function learnHistory() {
  const listed = view.databases.flatMap((database) => database.backups.map((backup) => backup.listed_at)).join();
  if (listed === listedAt) return;
  listedAt = listed;
  const answer = await fetch("/api/history");
  if (answer.ok) history = await answer.json();
  soon();
}

function connect() {
  const live = new EventSource("/api/live");
  live.addEventListener("open", () => { events.clear(); lines.clear(); });
  live.addEventListener("status", (message) => {
    hear(JSON.parse(message.data));
    draw();
    learnHistory().catch(() => { listedAt = ""; });
  });
  live.addEventListener("happened", (message) => {
    const event = JSON.parse(message.data);
    events.set(event.number, event);
    events.delete(event.number - 2 * KEPT_EVENTS);
    soon();
  });
  live.addEventListener("line", (message) => {
    const line = JSON.parse(message.data);
    const own = lines.get(line.process) || [];
    own.push(line);
    lines.set(line.process, own.slice(-KEPT_LINES));
    soon();
  });
  live.addEventListener("error", () => {
    if (live.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
    soon();
  });
}

const data = JSON.parse(byId("data").textContent);
history = data.history;
hear(data.status);
draw();
// Now that there is a width to draw timelines for.
draw();
connect();
setInterval(drawHero, 1000);
addEventListener("resize", soon);
