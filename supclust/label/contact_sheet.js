"use strict";
document.documentElement.classList.add("js"); // what labels is shown only where it works

document.addEventListener("DOMContentLoaded", () => {
  const find = (id) => document.getElementById(id);
  const ids = JSON.parse(find("ids").textContent);
  const cards = [...document.querySelectorAll(".card")];
  const inputs = cards.map((card) => card.querySelector("input"));
  const orders = cards.map((card) => card.querySelector(".order").textContent);
  const known = new Set([...find("known").options].map((option) => option.value));
  const key = "supclust-labels-" + document.body.dataset.key;
  const label = (k) => inputs[k].value.trim();
  let current = 0;

  function read() {
    try {
      const kept = JSON.parse(localStorage.getItem(key));
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify(inputs.map((input) => input.value)));
    } catch {
      find("refused").hidden = false; // pages of files may keep nothing
    }
  }

  function count() {
    let done = 0;
    cards.forEach((card, k) => {
      card.classList.toggle("labelled", label(k) !== "");
      done += label(k) !== "";
    });
    const text = `${done} of ${cards.length} labelled`;
    if (find("count").textContent !== text) find("count").textContent = text; // else it is read out again
    find("bar").value = done;
    find("download").disabled = find("clear").disabled = done === 0;
  }

  function chip(name) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dir = "auto";
    button.addEventListener("click", () => {
      inputs[current].value = name;
      count();
      keep();
      const next = unlabelled(current);
      turnTo(next < 0 ? current : next);
    });
    return button;
  }

  function learn(name) {
    if (name === "" || known.has(name)) return;
    known.add(name);
    find("known").append(new Option("", name));
    offer(name);
  }

  function offer(name) {
    find("chips").append(chip(name));
    find("chips-hint").hidden = true;
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
    current = k;
    cards[k].classList.add("current");
    if (scroll) cards[k].scrollIntoView({ block: "nearest" });
    find("chips-for").textContent = `Pick ${orders[k]}:`;
  }

  // What a spreadsheet may take for a formula: as annotations.safe has it.
  const formula = (text) => /^[\t\r\n]/.test(text) || /^[\s\p{Cc}\p{Cf}]*[=+\-@\u2212]/u.test(text.normalize("NFKC"));
  const safe = (text) => (formula(text.replace(/^'+/, "")) ? "'" + text : text);
  const field = (text) => `"${safe(text).replaceAll('"', '""')}"`;

  // All picks, those without a label too, so that none of them is picked again.
  function table() {
    const rows = ids.map((id, k) => [id, label(k)]);
    return [["id", "label"], ...rows].map((row) => row.map(field).join(",") + "\r\n").join("");
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv;charset=utf-8" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function clear() {
    if (!confirm("Remove all labels of this page?")) return;
    inputs.forEach((input) => (input.value = ""));
    count();
    keep();
    turnTo(0);
    inputs[0].focus();
  }

  inputs.forEach((input, k) => {
    input.addEventListener("focus", () => turnTo(k));
    input.addEventListener("input", () => { count(); keep(); });
    input.addEventListener("change", () => learn(label(k)));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      learn(label(k));
      const next = unlabelled(k);
      (next < 0 ? find("download") : inputs[next]).focus();
    });
  });
  find("download").addEventListener("click", download);
  find("clear").addEventListener("click", clear);
  known.forEach(offer);
  const kept = read();
  inputs.forEach((input, k) => {
    input.value = typeof kept[k] === "string" ? kept[k] : "";
    learn(label(k));
  });
  count();
  if (cards.length) turnTo(0, false); // the page opens with its title
});
