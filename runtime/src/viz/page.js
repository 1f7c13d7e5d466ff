"use strict";
// The page's data: files with lines, locs [file, line], stages with blocks of rows [text, node, loc], targets with kernels, texts.
// A selection is a set of locs, and perhaps a node of the last graph or a kernel; every pane marks what belongs to it.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const state = { file: 0, stage: data.stages.length - 1, tab: data.tabs[0].name, picked: null };
const tab = () => data.tabs.find((t) => t.name === state.tab);
const target = () => data.targets[tab().target];
const lastGraph = data.stages.map((s) => s.kind).lastIndexOf("graph");

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// What is chosen: locs, nodes of the last graph and kernels of the shown target.
function chain() {
  const p = state.picked;
  const locs = new Set(), nodes = new Set(), kernels = new Set();
  if (!p) return { locs, nodes, kernels };
  const all = target().kernels;
  if (p.kind === "kernel") {
    const k = data.targets[p.target].kernels[p.kernel];
    k.locs.forEach((l) => locs.add(l));
    k.nodes.forEach((n) => nodes.add(n));
    if (p.target === tab().target) kernels.add(p.kernel);
    else all.forEach((o, i) => { if (o.nodes.some((n) => nodes.has(n))) kernels.add(i); });
  } else if (p.kind === "node") {
    if (p.loc >= 0) locs.add(p.loc);
    if (p.stage === lastGraph) nodes.add(p.node);
    all.forEach((k, i) => {
      if (p.stage === lastGraph ? k.nodes.includes(p.node) : k.locs.includes(p.loc)) kernels.add(i);
    });
  } else {
    data.locs.forEach(([file, line], i) => { if (file === p.file && line === p.line) locs.add(i); });
    all.forEach((k, i) => { if (k.locs.some((l) => locs.has(l))) kernels.add(i); });
  }
  return { locs, nodes, kernels };
}

function pick(picked) {
  state.picked = picked;
  if (picked) {
    const { locs } = chain();
    const first = [...locs].map((l) => data.locs[l]);
    if (picked.kind !== "line" && first.length && !first.some(([file]) => file === state.file)) state.file = first[0][0];
  }
  render();
  for (const id of ["source", "graph", "kernels"]) {
    const mark = $(id).querySelector(".picked, .on");
    $(id).scrollLeft = 0;
    if (mark) {
      for (let d = mark.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
      const box = $(id).getBoundingClientRect(), at = mark.getBoundingClientRect();
      if (at.top < box.top || at.bottom > box.bottom) $(id).scrollTop += at.top - box.top - box.height / 3;
    }
  }
}

function row(text, className, action) {
  const e = element("span", "row " + className, text);
  e.setAttribute("role", "option");
  if (action) e.addEventListener("click", action);
  e.choose = action;
  return e;
}

function renderSource(marks) {
  const used = new Map();
  data.locs.forEach(([file, line], i) => { if (file === state.file) used.set(line, [...(used.get(line) || []), i]); });
  const file = data.files[state.file];
  const numbers = file.lines ? file.lines.map((_, i) => i + 1) : [...used.keys()].sort((a, b) => a - b);
  const p = state.picked;
  $("source").replaceChildren(...numbers.map((number) => {
    const locs = used.get(number);
    const on = locs && locs.some((l) => marks.locs.has(l));
    const picked = p && p.kind === "line" && p.file === state.file && p.line === number;
    const classes = (locs ? "" : "dead ") + (on ? "on " : "") + (picked ? "picked" : "");
    const e = row("", classes, locs && (() => pick({ kind: "line", file: state.file, line: number })));
    e.dataset.line = number;
    e.append(element("span", "n", number), file.lines ? file.lines[number - 1] : file.name + ":" + number);
    return e;
  }));
}

const plain = (text) => text.replace(/%\d+/g, "%").trim();

// Rows that the previous stage has not, as often as they occur.
function fresh(at) {
  if (at === 0 || data.stages[at].kind !== "graph") return () => false;
  const before = new Map();
  for (const b of data.stages[at - 1].blocks) for (const [text] of b.rows) before.set(plain(text), (before.get(plain(text)) || 0) + 1);
  return (text) => {
    const left = before.get(plain(text)) || 0;
    if (left > 0) before.set(plain(text), left - 1);
    return left === 0;
  };
}

function renderGraph(marks) {
  const stage = data.stages[state.stage], isNew = fresh(state.stage), p = state.picked;
  $("pass").value = state.stage;
  $("pass-name").textContent = stage.name;
  const open = new Set([...$("graph").querySelectorAll("details:not([open])")].map((d) => d.dataset.scope));
  $("graph").replaceChildren(...stage.blocks.map((block) => {
    const d = element("details");
    d.dataset.scope = block.scope;
    d.open = !open.has(block.scope);
    const summary = element("summary", "", block.scope || "(top)");
    d.append(summary);
    let any = false;
    for (const [text, node, loc] of block.rows) {
      const kernel = stage.kind === "program" ? data.targets[stage.target].kernels.findIndex((k) => k.name === block.scope) : -1;
      let on = state.stage === lastGraph && marks.nodes.size ? marks.nodes.has(node) : loc >= 0 && marks.locs.has(loc);
      if (stage.kind === "program") on = kernel >= 0 && stage.target === tab().target && marks.kernels.has(kernel);
      any ||= on;
      const picked = p && p.kind === "node" && p.stage === state.stage && p.node === node;
      const action = kernel >= 0
        ? () => pick({ kind: "kernel", target: stage.target, kernel })
        : loc >= 0 || node >= 0 ? () => pick({ kind: "node", stage: state.stage, node, loc }) : undefined;
      d.append(row(text, (action ? "" : "dead ") + (isNew(text) ? "new " : "") + (on ? "on " : "") + (picked ? "picked" : ""), action));
    }
    if (any) summary.className = "on";
    return d;
  }));
}

function renderKernels(marks) {
  const t = target(), groups = new Map(), p = state.picked;
  const hottest = Math.max(...t.kernels.map((k) => k.share || 0), 1e-9);
  t.kernels.forEach((k, i) => {
    const scope = (k.scopes[0] || "(no scope)").split("/").map((s) => s.split(".").slice(0, 2).join(".")).slice(0, 2).join("/");
    groups.set(scope, [...(groups.get(scope) || []), i]);
  });
  const closed = new Set([...$("kernels").querySelectorAll("details:not([open])")].map((d) => d.dataset.scope));
  $("kernels").replaceChildren(...[...groups].map(([scope, kernels]) => {
    const d = element("details");
    d.dataset.scope = scope;
    d.open = !closed.has(scope);
    const summary = element("summary", kernels.some((i) => marks.kernels.has(i)) ? "on" : "", scope);
    d.append(summary);
    for (const i of kernels) {
      const k = t.kernels[i];
      const picked = p && p.kind === "kernel" && p.target === tab().target && p.kernel === i;
      const e = row("", "kernel " + (marks.kernels.has(i) ? "on " : "") + (picked ? "picked" : ""), () => pick({ kind: "kernel", target: tab().target, kernel: i }));
      e.dataset.kernel = k.name;
      e.title = k.scopes.join("\n");
      e.append(k.name);
      if (k.share !== undefined) {
        e.style.backgroundSize = (100 * k.share / hottest).toFixed(1) + "% 100%";
        e.append(element("span", "ms", `  ${k.ms.toFixed(3)} ms ${(100 * k.share).toFixed(1)}%`));
      }
      d.append(e);
    }
    return d;
  }));
}

function renderCode(marks) {
  const kernels = [...marks.kernels].slice(0, 20), box = $("code"), t = target();
  if (!kernels.length) {
    box.textContent = state.picked ? `Nothing of it is in a kernel for this target.` : "Choose a kernel, or anything that leads to one.";
    return;
  }
  box.replaceChildren();
  for (const i of kernels) {
    const k = t.kernels[i], h = element("h3"), link = element("button", "", k.name);
    link.addEventListener("click", () => pick({ kind: "kernel", target: tab().target, kernel: i }));
    h.append(link, element("span", "", `  ${k.scopes.join(", ")}`));
    box.append(h);
    for (const text of k.code[state.tab] || []) box.append(data.texts[text].replace(/\s*$/, "\n\n"));
    if (marks.kernels.size > 20 && i === kernels[19]) box.append(`and ${marks.kernels.size - 20} more kernels`);
  }
  box.scrollTop = 0;
}

function renderTabs() {
  $("tabs").replaceChildren(...data.tabs.map((t) => {
    const b = element("button", "", t.name);
    b.setAttribute("role", "tab");
    b.setAttribute("aria-selected", t.name === state.tab);
    b.addEventListener("click", () => { state.tab = t.name; render(); });
    return b;
  }));
  $("targets").replaceChildren(...data.targets.map((t, i) => {
    const b = element("button", "", `${t.name}: ${t.kernels.length}`);
    b.setAttribute("role", "radio");
    b.setAttribute("aria-checked", i === tab().target);
    b.addEventListener("click", () => { state.tab = data.tabs.find((tab) => tab.target === i).name; render(); });
    return b;
  }));
  $("file").replaceChildren(...data.files.map((f, i) => new Option(f.name, i, false, i === state.file)));
}

function render() {
  const marks = chain();
  renderTabs();
  renderSource(marks);
  renderGraph(marks);
  renderKernels(marks);
  renderCode(marks);
  if (state.picked) $("status").textContent = `${marks.locs.size} line(s) of the model, ${marks.kernels.size} kernel(s) of ${target().name}`;
}

for (const id of ["source", "graph", "kernels"]) {
  $(id).addEventListener("keydown", (event) => {
    const rows = [...$(id).querySelectorAll(".row:not(.dead)")].filter((r) => r.offsetParent);
    const at = rows.findIndex((r) => r.classList.contains("at"));
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const from = at >= 0 ? at : rows.findIndex((r) => r.classList.contains("on")) - step;
      const next = rows[Math.max(0, Math.min(rows.length - 1, from + step))];
      rows.forEach((r) => r.classList.remove("at"));
      if (next) { next.classList.add("at"); next.scrollIntoView({ block: "nearest" }); }
    } else if (event.key === "Enter" && at >= 0) {
      rows[at].choose();
    }
  });
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") pick(null); });
$("pass").max = data.stages.length - 1;
$("pass").addEventListener("input", () => { state.stage = Number($("pass").value); render(); });
$("file").addEventListener("change", () => { state.file = Number($("file").value); render(); });
$("about").textContent = data.about;
render();
