"use strict";
document.documentElement.classList.add("js"); // what labels is shown only where it works

document.addEventListener("DOMContentLoaded", () => {
  const find = (id) => document.getElementById(id);
  const ids = JSON.parse(find("ids").textContent).map((some) => [some].flat()); // of the images of each card
  const what = document.body.dataset.what;
  const cards = [...document.querySelectorAll(".card")];
  const inputs = cards.map((card) => card.querySelector("input"));
  const orders = cards.map((card) => card.querySelector(".order").textContent);
  const known = []; // classes, in the order of their keys
  const KEYS = "123456789abcdefghilmnopqrstvwxy";
  const served = "served" in document.body.dataset; // by `supclust open`, which saves labels as they are typed
  const key = "supclust-labels-" + document.body.dataset.key;
  const unsaved = new Map(served ? read(key + "-unsaved") : []); // labels by id, until the server has them
  const gone = `nothing answers. To go on, run ${document.body.dataset.served}.`;
  const before = []; // what each change of a label replaced
  const label = (k) => inputs[k].value.trim();
  const pause = (time) => new Promise((resolve) => setTimeout(resolve, time)); // milliseconds
  let current = 0;
  let saving, waiting;

  function read(name) {
    try {
      const kept = JSON.parse(localStorage.getItem(name));
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  function keep() {
    try {
      localStorage.setItem(key + "-classes", JSON.stringify(known)); // so that their keys stay
      if (served) localStorage.setItem(key + "-unsaved", JSON.stringify([...unsaved]));
      else localStorage.setItem(key, JSON.stringify(inputs.map((input) => input.value)));
    } catch {
      find("refused").hidden = served; // pages of files may keep nothing
    }
  }

  function say(where, text) {
    if (find(where).textContent !== text) find(where).textContent = text; // else it is read out again
  }

  function count() {
    let done = 0;
    cards.forEach((card, k) => {
      card.classList.toggle("labelled", label(k) !== "");
      done += label(k) !== "";
    });
    say("count", `${done} of ${cards.length} labelled`);
    find("bar").value = done;
    find("download").disabled = find("clear").disabled = done === 0;
  }

  function learn(name) {
    if (typeof name !== "string" || name === "" || known.includes(name)) return;
    known.push(name);
    find("known").append(new Option("", name));
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dir = "auto";
    button.addEventListener("click", () => give(name));
    if (known.length <= KEYS.length) button.setAttribute("aria-keyshortcuts", KEYS[known.length - 1]);
    find("chips").append(button);
    find("chips-hint").hidden = true;
  }

  // -- labels

  function changed(k) {
    count();
    if (served) ids[k].forEach((id) => unsaved.set(id, label(k)));
    keep();
    clearTimeout(waiting);
    waiting = setTimeout(save, 400); // whoever types goes on typing
  }

  function put(k, text) {
    inputs[k].value = text;
    learn(label(k));
    changed(k);
    save();
  }

  // Give the current card a label, and go to the next one without.
  function give(name) {
    before.push([current, label(current)]);
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
    const [k, text] = before.pop();
    put(k, text);
    turnTo(k);
    say("said", `${what} ${orders[k]} is ${text === "" ? "without a label" : text} again.`);
  }

  // The next card without a label, at the end from the beginning; -1 where there is none.
  function unlabelled(k) {
    for (let step = 1; step < cards.length; step++) {
      const next = (k + step) % cards.length;
      if (label(next) === "") return next;
    }
    return -1;
  }

  function turnTo(k, scroll = true) {
    cards[current].classList.remove("current");
    cards[current].removeAttribute("aria-current");
    current = k;
    cards[k].classList.add("current");
    cards[k].setAttribute("aria-current", "true");
    if (scroll) cards[k].scrollIntoView({ block: "nearest" });
    find("chips-for").textContent = `${what} ${orders[k]}:`;
    if (find("zoom").open) enlarge();
  }

  function clear() {
    if (!confirm("Remove all labels of this page?")) return;
    inputs.forEach((input, k) => label(k) !== "" && put(k, ""));
    before.length = 0;
    turnTo(0);
    inputs[0].focus();
  }

  // -- the table

  // What a spreadsheet may take for a formula: as annotations.safe has it.
  const formula = (text) => /^[\t\r\n]/.test(text) || /^[\s\p{Cc}\p{Cf}]*[=+\-@\u2212]/u.test(text.normalize("NFKC"));
  const safe = (text) => (formula(text.replace(/^'+/, "")) ? "'" + text : text);
  const field = (text) => `"${safe(text).replaceAll('"', '""')}"`;

  // All picks, those without a label too, so that none of them is picked again.
  function table() {
    const rows = ids.flatMap((some, k) => some.map((id) => [id, label(k)]));
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
    const answer = await fetch(what, body && post);
    return { status: answer.status, ...(await answer.json()) };
  }

  // Send what is not saved; one request at a time, as the last label of a pick counts.
  async function save() {
    clearTimeout(waiting);
    if (saving || unsaved.size === 0) return;
    const sent = new Map([...unsaved].slice(0, 2000)); // the server takes no more than a megabyte
    saving = true;
    let wait = 0;
    try {
      const { status, words } = await ask("labels", Object.fromEntries(sent));
      say("said", status === 409 ? `Not saved, tried again: ${words}` : words);
      if (status === 409) wait = 3000;
      else sent.forEach((text, id) => unsaved.get(id) === text && unsaved.delete(id));
    } catch {
      say("said", `Not saved, but kept in this browser: ${gone}`);
      wait = 3000;
    }
    saving = false;
    keep();
    if (unsaved.size) waiting = setTimeout(save, wait);
  }

  // What labels.csv says by now, and whether the next round is there.
  async function refresh(first = false) {
    const { status, labels, next, computing, words } = await ask("state");
    if (status !== 200) {
      say("said", words);
      return { words };
    }
    let different = 0;
    inputs.forEach((input, k) => {
      const there = labels[ids[k][0]] ?? "";
      if (there === label(k) || unsaved.has(ids[k][0]) || input === document.activeElement) return;
      input.value = there;
      learn(label(k));
      different++;
    });
    count();
    find("follow").disabled = computing || next !== null;
    find("suggest").disabled = computing;
    if (next !== null) {
      const link = Object.assign(document.createElement("a"), { href: `../${encodeURIComponent(next)}/`, textContent: next });
      find("said").replaceChildren("The next round is there: ", link);
    } else if (words) say("said", words);
    else if (different && !first) say("said", `Labels changed elsewhere are shown now: ${different}.`);
    return { next, computing, words };
  }

  // Have the next round picked, or labels suggested, and go there.
  async function compute(what, body, address) {
    while (unsaved.size) await pause(100); // until it is saved, or for as long as the page says that it is not
    const { status, words } = await ask(what, body);
    if (status !== 200) return say("said", words);
    let state = await refresh();
    for (let seconds = 1; state.computing; seconds++) {
      say("said", `This takes a while: ${seconds} s so far.`);
      await pause(1000);
      state = await refresh();
    }
    if (!state.words) location.href = address(state);
  }

  // -- keys, and images shown large

  function enlarge() {
    const link = cards[current].querySelector("a.pick");
    const large = cards[current].querySelector("img.pick, span.pick").cloneNode(true);
    const small = large.src;
    large.addEventListener("error", () => (large.src = small), { once: true }); // browsers do not show all files
    const address = link ? link.href : served ? `image/${cards[current].dataset.point}` : "";
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
    if (pressing || event.altKey || !cards.length || (find("help").open && event.key !== "?")) return;
    const name = known[KEYS.indexOf(event.key)];
    let action = actions[event.key] ?? (name === undefined ? undefined : () => give(name));
    if (event.ctrlKey || event.metaKey) action = event.key === "z" ? undo : undefined;
    if (event.key === "Enter") action = accept;
    if (event.key === "?") action = help;
    if (!action) return;
    event.preventDefault();
    action();
  });

  inputs.forEach((input, k) => {
    let text = "";
    input.addEventListener("focus", () => {
      text = label(k);
      turnTo(k);
    });
    input.addEventListener("input", () => changed(k));
    input.addEventListener("change", () => {
      before.push([k, text]);
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
    card.addEventListener("click", ({ target }) => {
      if (target.closest(".accept, .leave")) turnTo(k);
      if (target.closest(".accept")) give(inputs[k].dataset.suggestion);
      if (target.closest(".leave")) move(1);
    });
    const link = card.querySelector("a.pick");
    if (served && link) link.href = `image/${card.dataset.point}`;
    link?.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      turnTo(k, false);
      zoom();
    });
  });
  find("download").addEventListener("click", download);
  find("clear").addEventListener("click", clear);
  find("keys").addEventListener("click", help);
  const answered = (computed) => computed.catch(() => say("said", `That did not work: ${gone}`));
  const following = ({ next }) => `../${encodeURIComponent(next)}/`;
  find("follow").addEventListener("click", () => answered(compute("next", { budget: find("budget").valueAsNumber }, following)));
  find("suggest").addEventListener("click", () => answered(compute("suggest", {}, () => "suggestions")));
  const named = [...find("known").options].map((option) => option.value);
  find("known").replaceChildren();
  [...named, ...read(key + "-classes")].forEach(learn);
  const kept = served ? ids.map(([id]) => unsaved.get(id)) : read(key);
  inputs.forEach((input, k) => {
    input.value = typeof kept[k] === "string" ? kept[k] : "";
    learn(label(k));
  });
  count();
  if (cards.length) turnTo(0, false); // the page opens with its title
  if (served) {
    window.addEventListener("focus", () => refresh().catch(() => {}));
    refresh(true).then(save);
  }
});
