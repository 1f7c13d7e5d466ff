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
  for (const id of PANES) {
    const mark = $(id).querySelector(".picked, .on");
    $(id).scrollLeft = 0;
    if (mark) {
      const scope = mark.closest(".scope");
      if (scope) open(scope, true);
      const box = $(id).getBoundingClientRect(), at = mark.getBoundingClientRect();
      if (at.top < box.top || at.bottom > box.bottom) $(id).scrollTop += at.top - box.top - box.height / 3;
    }
  }
}

// Panes whose rows can be chosen: a list of lines, and trees of scopes.
const PANES = ["source", "graph", "kernels"];
let numbered = 0;

function row(text, className, role, action) {
  const e = element("span", "row " + className, text);
  e.id = "row-" + numbered++;
  e.setAttribute("role", role);
  e.setAttribute("aria-selected", /picked/.test(className));
  if (action) e.addEventListener("click", action);
  else e.setAttribute("aria-disabled", "true");
  e.choose = action;
  return e;
}

const isOpen = (scope) => scope.firstChild.getAttribute("aria-expanded") === "true";

function open(scope, expanded) {
  scope.firstChild.setAttribute("aria-expanded", expanded);
  scope.lastChild.hidden = !expanded;
}

// A scope of a tree: its head, and its rows one level below; `on` if one of them is marked.
function branch(name, expanded, on, rows) {
  const scope = element("div", "scope"), head = element("span", "head" + (on ? " on" : ""), name), group = element("div");
  scope.dataset.scope = name;
  scope.setAttribute("role", "none");
  head.id = "row-" + numbered++;
  head.setAttribute("role", "treeitem");
  head.setAttribute("aria-level", 1);
  group.setAttribute("role", "group");
  for (const row of rows) row.setAttribute("aria-level", 2);
  group.append(...rows);
  scope.append(head, group);
  open(scope, expanded);
  head.choose = () => open(scope, !isOpen(scope));
  head.addEventListener("click", head.choose);
  return scope;
}

// Names of the scopes that are closed in a pane.
const closed = (id) => new Set([...$(id).querySelectorAll(".scope")].filter((scope) => !isOpen(scope)).map((scope) => scope.dataset.scope));

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
    const e = row("", classes, "option", locs && (() => pick({ kind: "line", file: state.file, line: number })));
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
  const shut = closed("graph");
  const kernels = stage.kind === "program" ? data.targets[stage.target].kernels : [];
  $("graph").replaceChildren(...stage.blocks.map((block) => {
    const kernel = kernels.findIndex((k) => k.name === block.scope);
    let any = false;
    const rows = block.rows.map(([text, node, loc]) => {
      let on = state.stage === lastGraph && marks.nodes.size ? marks.nodes.has(node) : loc >= 0 && marks.locs.has(loc);
      if (stage.kind === "program") on = kernel >= 0 && stage.target === tab().target && marks.kernels.has(kernel);
      any ||= on;
      const picked = p && p.kind === "node" && p.stage === state.stage && p.node === node;
      const action = kernel >= 0
        ? () => pick({ kind: "kernel", target: stage.target, kernel })
        : loc >= 0 || node >= 0 ? () => pick({ kind: "node", stage: state.stage, node, loc }) : undefined;
      return row(text, (action ? "" : "dead ") + (isNew(text) ? "new " : "") + (on ? "on " : "") + (picked ? "picked" : ""), "treeitem", action);
    });
    const name = block.scope || "(top)";
    return branch(name, !shut.has(name), any, rows);
  }));
}

function renderKernels(marks) {
  const t = target(), groups = new Map(), p = state.picked;
  const hottest = Math.max(...t.kernels.map((k) => k.share || 0), 1e-9);
  t.kernels.forEach((k, i) => {
    const scope = (k.scopes[0] || "(no scope)").split("/").map((s) => s.split(".").slice(0, 2).join(".")).slice(0, 2).join("/");
    groups.set(scope, [...(groups.get(scope) || []), i]);
  });
  const shut = closed("kernels");
  $("kernels").replaceChildren(...[...groups].map(([scope, kernels]) => {
    const rows = kernels.map((i) => {
      const k = t.kernels[i];
      const picked = p && p.kind === "kernel" && p.target === tab().target && p.kernel === i;
      const e = row("", "kernel " + (marks.kernels.has(i) ? "on " : "") + (picked ? "picked" : ""), "treeitem", () => pick({ kind: "kernel", target: tab().target, kernel: i }));
      e.dataset.kernel = k.name;
      e.title = k.scopes.join("\n");
      e.append(k.name);
      if (k.share !== undefined) {
        e.style.backgroundSize = (100 * k.share / hottest).toFixed(1) + "% 100%";
        e.append(element("span", "ms", `  ${k.ms.toFixed(3)} ms ${(100 * k.share).toFixed(1)}%`));
      }
      return e;
    });
    return branch(scope, !shut.has(scope), kernels.some((i) => marks.kernels.has(i)), rows);
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
    b.setAttribute("aria-controls", "code");
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

for (const id of PANES) {
  $(id).addEventListener("keydown", (event) => {
    const rows = [...$(id).querySelectorAll(".row:not(.dead), .head")].filter((r) => r.offsetParent);
    const at = rows.findIndex((r) => r.classList.contains("at"));
    const scope = at >= 0 ? rows[at].closest(".scope") : null;
    const go = (next) => {
      rows.forEach((r) => r.classList.remove("at"));
      if (!next) return;
      next.classList.add("at");
      next.scrollIntoView({ block: "nearest" });
      $(id).setAttribute("aria-activedescendant", next.id);
    };
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const marked = rows.findIndex((r) => r.classList.contains("on"));
      const from = at >= 0 ? at : marked >= 0 ? marked - step : -1;
      go(rows[Math.max(0, Math.min(rows.length - 1, from + step))]);
    } else if (event.key === "Home" || event.key === "End") {
      go(rows.at(event.key === "Home" ? 0 : -1));
    } else if (event.key === "ArrowRight" && scope) {
      open(scope, true);
    } else if (event.key === "ArrowLeft" && scope) {
      open(scope, false);
      go(scope.firstChild);
    } else if ((event.key === "Enter" || event.key === " ") && at >= 0) {
      const place = [...$(id).querySelectorAll(".row, .head")].indexOf(rows[at]);
      rows[at].choose();
      go([...$(id).querySelectorAll(".row, .head")][place]);
    } else {
      return;
    }
    event.preventDefault();
  });
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") pick(null); });
$("pass").max = data.stages.length - 1;
$("pass").addEventListener("input", () => { state.stage = Number($("pass").value); render(); });
$("file").addEventListener("change", () => { state.file = Number($("file").value); render(); });
$("about").textContent = data.about;
render();
