"use strict";
(() => {
  const body = document.body;
  const served = "served" in body.dataset;
  const articles = [...document.querySelectorAll(".pair")];
  const end = document.getElementById("end");
  const trouble = document.getElementById("trouble");
  const prefix = `harness-review/${body.dataset.rater}/`;
  let current = null;
  let sending = Promise.resolve();

  // ---- what is known of a pair: its vote, or the draft of one

  const kept = new Map();

  function recall(pair) {
    let said = null;
    try {
      said = JSON.parse(localStorage.getItem(prefix + pair));
    } catch { /* no storage, or damaged: begin anew */ }
    return { choice: null, left_ships: true, right_ships: true, note: "", at: 0, ...said };
  }

  function keep(pair, changes) {
    Object.assign(kept.get(pair), changes);
    try {
      localStorage.setItem(prefix + pair, JSON.stringify(kept.get(pair)));
    } catch {
      if (!served) complain("This browser keeps nothing: download your votes before you leave.");
    }
  }

  function complain(text) {
    trouble.textContent = text;
    trouble.hidden = !text;
  }

  const ballot = pair => {
    const { choice, left_ships, right_ships, note } = kept.get(pair);
    return { pair, choice, left_ships, right_ships, note };
  };

  // ---- what is shown

  function show() {
    const next = articles.find(one => !kept.get(one.dataset.pair).choice) || null;
    const done = articles.filter(one => kept.get(one.dataset.pair).choice).length;
    document.getElementById("done").textContent = done;
    document.getElementById("progress").value = done;
    for (const one of articles) one.hidden = one !== next;
    end.hidden = next !== null;
    body.classList.toggle("ended", next === null);
    if (next) fill(next);
    if (next !== current) {
      scrollTo(0, 0);
      (next || end).focus({ preventScroll: true });
    }
    current = next;
  }

  function fill(article) {
    const said = kept.get(article.dataset.pair);
    for (const side of ["left", "right"]) {
      const box = article.querySelector(`input[name=${side}]`);
      box.checked = !said[`${side}_ships`];
      box.closest(".reply").classList.toggle("marked", box.checked);
    }
    const note = article.querySelector("textarea");
    if (note.value !== said.note) note.value = said.note;
  }

  // ---- what people do

  function choose(choice) {
    if (!current) return;
    const { pair } = current.dataset;
    const last = Math.max(0, ...[...kept.values()].map(one => one.at));
    keep(pair, { choice, at: last + 1, sent: false });
    show();
    send();
  }

  function mark(sides) {
    if (!current) return;
    const said = kept.get(current.dataset.pair);
    const all = sides.every(side => !said[`${side}_ships`]);
    keep(current.dataset.pair, Object.fromEntries(sides.map(side => [`${side}_ships`, all])));
    fill(current);
  }

  function undo() {
    const voted = articles.map(one => one.dataset.pair).filter(pair => kept.get(pair).choice);
    if (!voted.length) return;
    const pair = voted.reduce((a, b) => (kept.get(a).at > kept.get(b).at ? a : b));
    keep(pair, { choice: null, at: 0, sent: false });
    show();
    send();
  }

  function download() {
    const votes = articles.map(one => ballot(one.dataset.pair)).filter(one => one.choice);
    const { run, rater } = body.dataset;
    const text = JSON.stringify({ run, rater, votes }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `votes-${rater}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // ---- a served page posts what is not stored yet, one after the other

  function send() {
    if (served) sending = sending.then(sendAll);
    return sending;
  }

  async function sendAll() {
    for (const article of articles) {
      const { pair } = article.dataset;
      if (kept.get(pair).sent !== false) continue;
      const said = JSON.stringify(ballot(pair));
      try {
        const answer = await fetch("votes", {
          method: "POST", body: said, headers: { "Content-Type": "application/json" },
        });
        if (!answer.ok) throw new Error(answer.status);
      } catch {
        complain("Your last votes are not stored yet. They stay in this browser: start "
          + "`harness review --serve` again and open the address that it prints.");
        return;
      }
      if (said === JSON.stringify(ballot(pair))) keep(pair, { sent: true });
    }
    complain("");
  }

  const deeds = {
    left: () => choose("left"), right: () => choose("right"), tie: () => choose("tie"),
    both: () => mark(["left", "right"]), undo, download,
  };
  const keys = {
    ArrowLeft: deeds.left, ArrowRight: deeds.right, t: deeds.tie,
    1: () => mark(["left"]), 2: () => mark(["right"]), 3: deeds.both, u: undo,
    n: () => current && current.querySelector("textarea").focus(),
  };

  document.addEventListener("keydown", event => {
    if (event.target.tagName === "TEXTAREA") {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const deed = keys[event.key] || keys[event.key.toLowerCase()];
    if (!deed || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    deed();
  });
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-do]");
    if (button) deeds[button.dataset.do]();
  });
  document.addEventListener("input", event => {
    if (!current || !current.contains(event.target)) return;
    if (event.target.tagName === "TEXTAREA") keep(current.dataset.pair, { note: event.target.value });
    else mark([event.target.name]);
  });

  // ---- begin where it was left

  for (const one of articles) kept.set(one.dataset.pair, recall(one.dataset.pair));
  if (served) {
    const begun = JSON.parse(document.getElementById("begun").textContent);
    for (const article of articles) {
      const { pair } = article.dataset;
      const place = begun.findIndex(one => one.pair === pair);
      if (kept.get(pair).sent === false) continue;
      if (place >= 0) Object.assign(kept.get(pair), begun[place], { at: place + 1, sent: true });
      else Object.assign(kept.get(pair), { choice: null, at: 0 });
    }
  }
  show();
  send();
})();
