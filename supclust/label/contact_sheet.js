"use strict";
document.documentElement.classList.add("js"); // what labels is shown only where it works

document.addEventListener("DOMContentLoaded", () => {
  const find = (id) => document.getElementById(id);
  const { ids, classes } = JSON.parse(find("data").textContent); // ids: of the images of each card
  const what = document.body.dataset.what;
  const cards = [...document.querySelectorAll(".card")];
  const inputs = cards.map((card) => card.querySelector("input"));
  const known = []; // classes, in the order of their keys
  const KEYS = "123456789abcdefghilmnopqrstvwxy";
  const served = "served" in document.body.dataset; // by `supclust open`, which saves labels as they are typed
  const key = "supclust-labels-" + document.body.dataset.key;
  const unsaved = new Map(); // labels by id, until the server has them
  const before = []; // what each change of a label replaced: the card, its label before and after, and the images that had it
  const there = ids.map(() => ""); // the label that each card shows, as far as it is known
  let labels = {}; // by id
  const label = (k) => inputs[k].value.trim();
  let current = 0;
  let saving = false;
  let changes = 0; // of labels, here
  let waiting; // for whoever types

  function read() {
    try {
      return JSON.parse(localStorage.getItem(key)) ?? {};
    } catch {
      return {};
    }
  }

  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify({ known, labels })); // the classes, too, so that their keys stay
    } catch {
      if (!served) say("said", "This browser keeps nothing for this page: download the labels before you close it.");
    }
  }

  function say(where, text) {
    if (find(where).textContent !== text) find(where).textContent = text; // else it is read out again
  }

  function count() {
    const done = cards.filter((card, k) => card.classList.toggle("labelled", label(k) !== "")).length;
    say("count", `${done} of ${cards.length} labelled`);
    find("bar").value = done;
  }

  function learn(name) {
    if (name === "" || known.includes(name)) return;
    known.push(name);
    find("known").append(new Option("", name));
    const button = document.createElement("button");
    button.textContent = name;
    button.dir = "auto";
    button.addEventListener("click", () => give(name));
    if (known.length <= KEYS.length) button.setAttribute("aria-keyshortcuts", KEYS[known.length - 1]);
    find("chips").append(button);
    find("chips-hint").hidden = true;
  }

  // -- labels

  // The images of a card whose label it shows: others were labelled by themselves, and keep what they have.
  const shared = (k) => ids[k].filter((id) => (labels[id] ?? "") === there[k]);

  function changed(k, some = shared(k)) {
    for (const id of some) {
      labels[id] = label(k);
      if (served) unsaved.set(id, label(k));
    }
    there[k] = label(k);
    count();
    keep();
    changes++;
    if (!served) return;
    clearTimeout(waiting);
    waiting = setTimeout(save, 400); // whoever types goes on typing
  }

  // Put labels, by id, into the fields, but for what is typed just now. Returns how many were different.
  function show(given) {
    const different = inputs.filter((input, k) => {
      if (input === document.activeElement) return false;
      ids[k].forEach((id) => (labels[id] = given[id] ?? ""));
      const [first, ...others] = new Set(ids[k].map((id) => labels[id]));
      there[k] = others.length ? "" : first;
      if (there[k] === label(k)) return false;
      input.value = there[k];
      learn(there[k]);
      return true;
    });
    count();
    return different.length;
  }

  function put(k, text, some) {
    inputs[k].value = text;
    learn(label(k));
    changed(k, some);
    save();
  }

  // Give the current card a label, and go to the next one without.
  function give(name) {
    before.push([current, label(current), name, shared(current)]);
    put(current, name);
    const next = unlabelled(current);
    turnTo(next < 0 ? current : next);
  }

  // What is suggested, if that is all there is to it.
  function accept() {
    const { suggestion } = inputs[current].dataset;
    if (suggestion && label(current) === "") give(suggestion);
    else inputs[current].focus();
  }

  function undo() {
    if (!before.length) return say("said", "There is no label to take back.");
    const [k, text, after, some] = before.pop();
    turnTo(k);
    if (label(k) !== after) return say("said", `${what} ${k + 1} was changed elsewhere, and stays as it is.`);
    put(k, text, some);
    say("said", `${what} ${k + 1} is ${text === "" ? "without a label" : text} again.`);
  }

  // The next card without a label, at the end from the beginning; -1 where there is none.
  function unlabelled(k) {
    const free = [...cards.keys()].filter((other) => other !== k && label(other) === "");
    return free.find((other) => other > k) ?? free[0] ?? -1;
  }

  function turnTo(k, scroll = true) {
    cards[current].classList.remove("current");
    cards[current].removeAttribute("aria-current");
    current = k;
    cards[k].classList.add("current");
    cards[k].setAttribute("aria-current", "true");
    if (scroll) cards[k].scrollIntoView({ block: "nearest" });
    find("chips-for").textContent = `${what} ${k + 1}:`;
    if (find("zoom").open) enlarge();
  }

  // -- the table

  // What a spreadsheet may take for a formula: as annotations.safe has it.
  const formula = (text) => /^[\t\r\n]/.test(text) || /^[\s\p{Cc}\p{Cf}]*[=+\-@\u2212]/u.test(text.normalize("NFKC"));
  const safe = (text) => (formula(text.replace(/^'+/, "")) ? "'" + text : text);
  const field = (text) => `"${safe(text).replaceAll('"', '""')}"`;

  // All picks, those without a label too, so that none of them is picked again.
  function table() {
    const rows = ids.flatMap((some) => some.map((id) => [id, labels[id] ?? ""]));
    return [["id", "label"], ...rows].map((row) => row.map(field).join(",") + "\r\n").join("");
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv;charset=utf-8" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // -- the server

  async function ask(what, body) {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    try {
      const answer = await fetch(what, body && post);
      return { done: answer.ok, ...(await answer.json()) };
    } catch {
      return { done: false, words: "nothing answers. Run supclust open again; what is not saved can be downloaded here, for --labeled." };
    }
  }

  // Send what is not saved; one request at a time, as the last label of a pick counts.
  async function save() {
    clearTimeout(waiting);
    if (saving || unsaved.size === 0) return;
    const sent = new Map(unsaved);
    saving = true;
    const { done, words } = await ask("labels", Object.fromEntries(sent));
    saving = false;
    say("said", done ? words : `Not saved, tried again: ${words}`);
    if (done) sent.forEach((text, id) => unsaved.get(id) === text && unsaved.delete(id));
    if (unsaved.size) waiting = setTimeout(save, done ? 0 : 3000);
  }

  // What labels.csv says by now, and whether the next round is there.
  async function refresh() {
    const asked = changes;
    if (unsaved.size) return;
    const { done, labels, next, words } = await ask("state");
    if (!done) return say("said", words);
    if (changes > asked) return; // the answer may be older than what was typed meanwhile
    const different = show(labels);
    if (next) say("said", `The next round is there: ${next}. Pick them leads to it.`);
    else if (different) say("said", `Labels read from labels.csv: ${different}.`);
  }

  // Have the next round picked, or labels suggested, and go there.
  async function compute(what, body) {
    while (unsaved.size) await new Promise((resolve) => setTimeout(resolve, 100)); // milliseconds
    say("said", "This takes a while …");
    const { done, words, address } = await ask(what, body);
    if (done) location.href = address;
    else say("said", `That did not work: ${words}`);
  }

  // -- keys, and images shown large

  function original(k) {
    return served ? `image/${encodeURIComponent(ids[k][0])}` : (cards[k].querySelector("a.pick")?.href ?? "");
  }

  function enlarge() {
    const large = cards[current].querySelector("img.pick, span.pick").cloneNode(true);
    const small = large.src;
    large.addEventListener("error", () => {
      large.src = small; // browsers do not show all files
      find("large-name").textContent += " (cannot be shown larger)";
    }, { once: true });
    const address = original(current);
    if (address) large.src = address;
    find("original").hidden = !address;
    find("original").href = address;
    find("large").replaceChildren(large);
    find("large-name").textContent = large.alt ?? large.getAttribute("aria-label");
  }

  function zoom() {
    if (find("zoom").open) return find("zoom").close();
    enlarge();
    find("zoom").showModal();
  }

  function move(step) {
    turnTo(Math.min(Math.max(current + step, 0), cards.length - 1));
    if (!find("zoom").open) cards[current].focus({ preventScroll: true });
  }

  const help = () => (find("help").open ? find("help").close() : find("help").showModal());
  const [on, back] = [() => move(1), () => move(-1)];
  const actions = { j: on, ArrowDown: on, ArrowRight: on, k: back, ArrowUp: back, ArrowLeft: back, u: undo, z: zoom, " ": zoom };

  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input")) {
      if (event.key === "Escape") cards[current].focus({ preventScroll: true });
      return;
    }
    const pressing = event.target.closest("a, button, summary") && [" ", "Enter"].includes(event.key);
    if (pressing || event.altKey || (find("help").open && event.key !== "?")) return;
    const name = known[KEYS.indexOf(event.key)];
    let action = actions[event.key] ?? (name === undefined ? undefined : () => give(name));
    if (event.ctrlKey || event.metaKey) action = event.key === "z" ? undo : undefined;
    if (event.key === "Enter") action = accept;
    if (event.key === "?") action = help;
    if (!action) return;
    event.preventDefault();
    if (event.repeat && action !== on && action !== back) return; // a key that is held down labels one card
    action();
  });

  inputs.forEach((input, k) => {
    let text = "";
    let some = [];
    input.addEventListener("focus", () => {
      [text, some] = [label(k), shared(k)];
      turnTo(k);
    });
    input.addEventListener("input", () => changed(k));
    input.addEventListener("change", () => {
      before.push([k, text, label(k), some]);
      [text, some] = [label(k), shared(k)];
      learn(label(k));
      keep();
      save();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      if (input.dataset.suggestion && label(k) === "") give(input.dataset.suggestion);
      const next = unlabelled(k);
      (next < 0 ? find("download") : inputs[next]).focus();
    });
  });
  cards.forEach((card, k) => {
    card.querySelector(".accept")?.addEventListener("click", () => {
      turnTo(k);
      give(inputs[k].dataset.suggestion);
    });
    const link = card.querySelector("a.pick");
    if (link) link.href = original(k);
    link?.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      turnTo(k, false);
      zoom();
    });
  });
  find("download").addEventListener("click", download);
  find("keys").addEventListener("click", help);
  find("follow").addEventListener("click", () => {
    if (find("budget").reportValidity()) compute("next", { budget: find("budget").valueAsNumber });
  });
  find("suggest").addEventListener("click", () => compute("suggest", {}));

  const kept = read();
  [...classes, ...(kept.known ?? [])].forEach(learn);
  show((!served && kept.labels) || {});
  turnTo(0, false); // the page opens with its title
  if (served) {
    refresh();
    window.addEventListener("focus", refresh);
    window.addEventListener("beforeunload", (event) => unsaved.size && event.preventDefault());
  }
});
