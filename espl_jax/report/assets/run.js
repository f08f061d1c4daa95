// The page of a run: a prompt's details, transcripts side by side, edits and their fates, any metric.
"use strict";

(() => {
  const { make } = Page;
  const FOLD = 1500; // characters of a text beyond which the rest is folded
  const EDITS = 40; // rows of edits that are shown at once
  const NOBODY = 2 ** 31 - 1; // the id of "no prompt" in evaluations
  const { prompts, matches, attempts, texts, problems, transcripts, metrics, best } = payload;
  const byId = (id) => document.getElementById(id);
  const link = (id) => (id === NOBODY ? make("span", null, "no prompt") : make("a", { href: `#prompt-${id}` }, `prompt ${id}`));
  const listed = (items) => items.flatMap((item, index) => (index ? [", ", item] : [item]));
  const rating = ([, mu, sigma]) => `${mu.toFixed(1)} ± ${sigma.toFixed(1)}`;
  const row = (cells, numeric = [], tag = "td", names = []) =>
    make("tr", null, cells.map((cell, index) => make(tag, { class: numeric.includes(index) ? "n" : null, "data-name": names[index] }, make("span", null, cell))));
  const table = (header, rows, numeric) =>
    make("div", { class: "scroll" }, make("table", null, make("thead", null, row(header, numeric, "th")),
      make("tbody", null, rows.map((cells) => row(cells, numeric)))));
  const folded = (summary, content) => {
    // What is inside is made when it is first opened.
    const details = make("details", null, make("summary", null, summary));
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(...content()); });
    return details;
  };

  // A long text shows its beginning; the rest opens.
  const text = (place) => {
    const whole = texts[place];
    if (whole.length <= FOLD) return make("p", { class: "text" }, whole || "(empty)");
    const shown = make("p", { class: "text" }, whole.slice(0, FOLD - 300) + " ...");
    const more = make("button", { type: "button", class: "more" }, `show all ${whole.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => { shown.textContent = whole; more.remove(); });
    return make("div", null, shown, more);
  };
  const turn = ([role, place]) =>
    make("div", { class: `turn ${["system", "user", "assistant", "tool", "reply"].includes(role) ? role : ""}` }, make("span", { class: "role" }, role), text(place));

  // ---- a prompt ----
  const genome = (prompt) => {
    if (!prompt.lines.length) return make("p", { class: "note" }, "It says nothing: the empty prompt.");
    if (prompt.kind === "document") return make("p", { class: "text" }, prompt.lines.map((place) => texts[place]).join("\n"));
    return make("ol", { class: "principles" }, prompt.lines.map((place, index) =>
      make("li", null, make("span", { class: "id" }, `G${index}`), make("span", { class: "text" }, texts[place]))));
  };

  const change = (old, prompt) => ([kind, first, second, spans]) => {
    const line = (place) => texts[place] || " ";
    if (kind === "=") return make("span", { class: "text change same" }, line(prompt.lines[first]));
    if (kind === "-") return make("span", { class: "text change gone" }, line(old.lines[first]));
    if (kind === "+") return make("span", { class: "text change came" }, line(prompt.lines[first]));
    const parts = spans.map(([part, words]) => (part === "=" ? words : make(part === "-" ? "del" : "ins", null, words)));
    return make("span", { class: "text change new" }, parts);
  };

  // Unchanged lines are counted where they are many.
  const changes = (old, prompt, lines) => {
    const shown = [];
    for (let index = 0; index < lines.length; index += 1) {
      let end = index;
      while (end < lines.length && lines[end][0] === "=") end += 1;
      if (end - index > 2) {
        shown.push(make("span", { class: "change same note" }, `${end - index} lines are unchanged`));
        index = end - 1;
      } else shown.push(change(old, prompt)(lines[index]));
    }
    return shown.length ? shown : [make("span", { class: "change same note" }, "Nothing: both say nothing.")];
  };

  const fate = (operation) => make("span", { class: `badge ${operation.fate === "applied" ? "good" : "bad"}` }, operation.fate === "applied" ? "applied" : "dropped");
  const edit = (operation) => make("div", { class: "turn" },
    make("span", { class: "fate" }, fate(operation), ` ${operation.op}`, operation.targets.length ? ` ${operation.targets.map((t) => `G${t}`).join(", ")}` : "",
      operation.fate === "applied" ? "" : `: ${operation.fate}`),
    operation.search !== undefined ? make("p", { class: "text" }, make("del", null, texts[operation.search])) : null,
    operation.text !== undefined ? text(operation.text) : null,
    operation.evidence !== undefined ? make("p", { class: "note" }, "evidence: ", texts[operation.evidence]) : null);

  const call = (one) => {
    const [asked, answered] = one.tokens;
    const title = [make("b", null, one.stage), one.problem ? `problem ${one.problem}` : "", `${asked} + ${answered} tokens`,
      one.operations.length ? `${one.operations.length} edits` : "", one.error ? make("span", { class: "badge bad" }, "not used") : ""];
    const details = folded("", () => [one.error ? make("p", { class: "bad" }, one.error) : "",
      make("div", null, one.operations.map(edit)), make("div", null, one.turns.slice().reverse().map(turn))]);
    details.classList.add("call");
    details.firstChild.append(...title.filter(Boolean).map((part) => make("span", null, part)));
    return details;
  };

  const matchRows = (id) => matches.filter(([, ids]) => ids.includes(id)).map(([step, ids, scores, ranks]) => {
    const mine = ids.indexOf(id);
    const others = ids.flatMap((other, index) => (other === id ? [] : [[link(other), ` ${scores[index].toFixed(3)}`]]));
    const drawn = ranks.filter((rank) => rank === ranks[mine]).length > 1;
    return [step, `${ranks[mine] + 1} of ${ids.length}${drawn ? ", drawn" : ""}`, scores[mine].toFixed(3), make("span", null, listed(others).flat())];
  });

  const ratingSpec = (history) => {
    const x = history.map(([step]) => step);
    const low = history.map(([, mu, sigma]) => mu - sigma);
    const high = history.map(([, mu, sigma]) => mu + sigma);
    return {
      data: [
        { type: "scatter", mode: "lines", x: [...x, ...x.slice().reverse()], y: [...high, ...low.slice().reverse()], fill: "toself",
          fillcolor: "var(--c1)", opacity: 0.18, line: { width: 0 }, hoverinfo: "skip" },
        { type: "scatter", mode: "lines+markers", x, y: history.map(([, mu]) => mu), line: { color: "var(--c1)" }, marker: { size: 5 },
          error_y: history.length > 1 ? undefined : { type: "data", array: [history[0][2]], color: "var(--c1)" }, hovertemplate: "%{y:.2f}<extra></extra>" },
      ],
      layout: Object.assign({}, blank, { xaxis: Object.assign({}, blank.xaxis, { title: { text: "step" } }, x.at(-1) - x[0] < 6 ? { dtick: 1 } : {}), yaxis: Object.assign({}, blank.yaxis, { title: { text: "mu" } }) }),
    };
  };
  const axis = { gridcolor: "var(--rule)", zeroline: false, linecolor: "var(--rule)", automargin: true };
  const blank = {
    margin: { l: 44, r: 10, t: 6, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: "system-ui, sans-serif", size: 12, color: "var(--ink-2)" }, xaxis: axis, yaxis: axis,
    hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--rule)", font: { color: "var(--ink)" } },
  };

  const panel = byId("prompt");
  let chart = null;
  const show = (id) => {
    const prompt = prompts[id];
    if (chart) Page.forget(chart);
    chart = make("div", { class: "chart", style: "height:170px" });
    const origin = prompt.parents.length ? [`${prompt.operator} of `, ...listed(prompt.parents.map(link)), `, born in step ${prompt.born}`] : ["the root"];
    const played = matchRows(id);
    const attempt = attempts[prompt.attempt];
    panel.replaceChildren(
      make("h3", null, `Prompt ${id}`, id === best ? " (the best)" : "", prompt.retired ? " (retired)" : "", prompt.pinned ? " (pinned)" : ""),
      make("p", { class: "sub" }, ...origin, `; rating ${rating(prompt.history.at(-1))}`),
      prompt.note ? make("p", { class: "note" }, `noted by its author: ${prompt.note}`) : "",
      genome(prompt),
      make("div", null, prompt.changes.map(([parent, lines]) => make("div", null,
        make("h3", null, "Changed against ", link(parent)), make("div", null, changes(prompts[parent], prompt, lines))))),
      make("h3", null, "Rating over time"), chart,
      make("h3", null, `Matches (${played.length})`),
      played.length ? table(["step", "rank", "reward", "against"], played, [0, 2]) : make("p", { class: "note" }, "It has not competed yet."),
      make("h3", null, "Reflection that made it"),
      attempt ? make("div", null, make("p", { class: "note" }, `${attempt.operator} in step ${attempt.step}: ${attempt.calls.length} calls of the editor`), attempt.calls.map(call))
        : make("p", { class: "note" }, prompt.operator === "human" ? "A person wrote it." : "None is recorded."),
      make("p", null, make("b", null, "Children: "), ...(prompt.children.length ? listed(prompt.children.map(link)) : ["none"])),
    );
    panel.scrollTop = 0;
    Page.place(chart, ratingSpec(prompt.history));
    mark(id);
  };

  const tree = byId("tree");
  const mark = (id) => {
    const line = new Set();
    const waiting = [id];
    while (waiting.length) {
      const child = waiting.pop();
      for (const parent of prompts[child].parents) {
        const name = `${parent}-${child}`;
        if (!line.has(name)) { line.add(name); waiting.push(parent); }
      }
    }
    tree.querySelectorAll(".chosen").forEach((element) => element.classList.remove("chosen"));
    tree.querySelectorAll("path[data-to]").forEach((path) => {
      if (line.has(`${path.dataset.from}-${path.dataset.to}`)) path.classList.add("chosen");
    });
    const node = byId(`node-${id}`);
    node.classList.add("chosen");
    const frame = tree.parentElement;
    const [place, view] = [node.getBoundingClientRect(), frame.getBoundingClientRect()];
    if (place.left < view.left || place.right > view.right) frame.scrollLeft += place.left - view.left - view.width / 2;
    if (place.top < view.top || place.bottom > view.bottom) frame.scrollTop += place.top - view.top - view.height / 2;
  };

  const follow = (jump) => {
    const wanted = /^#prompt-(\d+)$/.exec(location.hash);
    if (!wanted || !(wanted[1] in prompts)) return;
    show(Number(wanted[1]));
    if (!jump) return;
    const box = panel.getBoundingClientRect();
    if (box.top < 0 || box.top > window.innerHeight * 0.6) panel.scrollIntoView({ block: "start" });
  };
  window.addEventListener("hashchange", () => follow(true));
  // Clicking the prompt that is chosen already leaves the hash as it is.
  document.addEventListener("click", (event) => {
    const target = event.target.closest && event.target.closest("a");
    const href = target && target.getAttribute("href");
    if (href && href === location.hash && href.startsWith("#prompt-")) { event.preventDefault(); follow(true); }
  });

  Page.onDrawn = (element) => {
    if (element.id === "chart-reward-map") element.on("plotly_click", (event) => { location.hash = `#prompt-${event.points[0].x}`; });
  };

  // ---- transcripts ----
  const transcript = (question) => (one) => make("article", null,
    make("h4", null, one.label, make("span", { class: `badge ${one.reward >= 1 ? "good" : "bad"}` }, `reward ${one.reward}`)),
    make("p", { class: "note" }, link(one.prompt), `, sample ${one.sample}, ${one.tokens} tokens, ended by ${one.finish || "?"}`,
      one.extracted ? `, answer read: ${one.extracted}` : "", one.note ? `; ${one.note}` : ""),
    one.turns.slice(one.turns[0][1] === question ? 1 : 0).map(turn));
  const group = ({ problem, columns }) => {
    const [question, answer] = problems[problem] || [];
    return make("div", { class: "problem" },
      make("div", { class: "turn user" }, make("span", { class: "role" }, `problem ${problem}`), question === undefined ? "" : text(question)),
      answer === undefined || !texts[answer] ? "" : make("p", { class: "note" }, `true answer: ${texts[answer].slice(0, 300)}`),
      make("div", { class: "columns" }, columns.map(transcript(question))));
  };
  const where = byId("where");
  transcripts.forEach((entry, index) => where.append(make("option", { value: index }, entry.title)));
  const read = () => byId("conversations").replaceChildren(
    ...(transcripts.length ? transcripts[where.value].groups.map(group) : [make("p", { class: "note" }, "None is recorded yet.")]));
  const move = (by) => { where.selectedIndex = Math.min(Math.max(where.selectedIndex + by, 0), transcripts.length - 1); read(); };
  where.addEventListener("change", read);
  byId("earlier").addEventListener("click", () => move(-1));
  byId("later").addEventListener("click", () => move(1));
  read();

  // ---- edits ----
  const edits = attempts.flatMap((attempt) => attempt.calls.flatMap((one) => one.operations.map((operation) => ({ attempt, one, operation }))));
  const FILTERS = {
    "all edits": () => true,
    "applied": ({ operation }) => operation.fate === "applied",
    "dropped": ({ operation }) => operation.fate !== "applied",
    "of children that were born": ({ attempt }) => attempt.child >= 0,
  };
  const COLUMNS = ["step", "child", "by", "edit", "text", "fate"];
  const fateSelect = byId("fate");
  if (fateSelect) {
    const more = byId("more-edits");
    const list = byId("edits");
    let chosen = edits;
    const some = (from) => chosen.slice(from, from + EDITS).map(({ attempt, one, operation }) => row([
      attempt.step, make("span", null, attempt.child >= 0 ? link(attempt.child) : "no child"), `${attempt.operator}, ${one.stage}`,
      `${operation.op} ${operation.targets.map((t) => `G${t}`).join(", ")}`, operation.text === undefined ? "" : texts[operation.text],
      make("span", { class: operation.fate === "applied" ? "good" : "bad" }, operation.fate)], [0], "td", COLUMNS));
    const fill = (from) => {
      if (!from) list.replaceChildren(make("thead", null, row(COLUMNS, [0], "th")), make("tbody"));
      list.lastChild.append(...some(from));
      more.hidden = list.lastChild.children.length >= chosen.length;
      byId("fate-count").textContent = `${chosen.length} of ${edits.length}`;
    };
    Object.keys(FILTERS).forEach((name) => fateSelect.append(make("option", null, name)));
    fateSelect.addEventListener("change", () => { chosen = edits.filter(FILTERS[fateSelect.value]); fill(0); });
    more.addEventListener("click", () => fill(list.lastChild.children.length));
    fill(0);
  }

  // ---- any metric ----
  const metric = byId("metric");
  Object.keys(metrics.columns).forEach((name) => metric.append(make("option", null, name)));
  const plot = () => Page.place(byId("any"), {
    data: [{ type: "scatter", mode: metrics.steps.length < 40 ? "lines+markers" : "lines", x: metrics.steps, y: metrics.columns[metric.value], connectgaps: true,
      line: { color: "var(--c1)" }, hovertemplate: "%{y:.5~g}<extra></extra>" }],
    layout: Object.assign({}, blank, { xaxis: Object.assign({}, axis, { title: { text: "step" } }), hovermode: "x" }),
  });
  metric.addEventListener("change", plot);
  plot();

  if (/^#prompt-\d+$/.test(location.hash)) follow(false);
  else show(best);
  document.documentElement.dataset.ready = "yes";
})();
