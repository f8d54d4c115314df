// The Vote tab: two keys, and what a tab remembers: which match it shows, which it answered last.
(() => {
  const KEYS = {
    ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", 0: "tie", s: "skip", S: "skip",
  };
  const SHOWN = "chats-vote-shown";
  let pressed = {};
  let sent = "";

  const arena = () => document.querySelector("#vote-arena .arena[data-state=open]");
  const isSeen = () => document.getElementById("vote-arena")?.offsetParent != null;
  const click = (id) => document.getElementById(id)?.click();
  const whenThere = (id, tries = 100) => {
    if (document.getElementById(id)) click(id);
    else if (tries) setTimeout(() => whenThere(id, tries - 1), 50);
  };
  const lastCast = () => document.querySelector("#vote-told [data-cast]")?.dataset.cast || "";

  const answer = (choice) => {
    const shown = arena();
    if (!shown || shown.dataset.match === sent) return;
    sent = shown.dataset.match;
    shown.dataset.sent = choice;
    pressed = { match: sent, choice };
    click("vote-cast");
    // An answer that never came is pressed again; the server counts it once.
    setTimeout(() => { if (sent === shown.dataset.match) sent = ""; }, 4000);
  };
  const undo = () => {
    pressed = { cast: lastCast() };
    sent = "";
    click("vote-undo");
  };

  window.chats.vote = {
    run: "",
    // While a vote of before against after is being opened, the tab does not take up the last one.
    isStarting: false,
    asked: (said, kept) => [said, window.chats.vote.isStarting ? null : kept],
    openTab: (name) => window.chats.runs.tab(name),
    take: () => JSON.stringify(pressed),
    seen: () => arena()?.dataset.match || "",
    wanted: () => sessionStorage.getItem(SHOWN) || "",
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const choice = target?.closest("#vote-arena [data-choice]");
    if (choice) answer(choice.dataset.choice);
    if (target?.closest("#vote-arena [data-undo]")) undo();
    const rematch = target?.closest("[data-vote-run]");
    if (rematch) {
      event.preventDefault();
      window.chats.vote.run = rematch.dataset.voteRun;
      window.chats.vote.isStarting = true;
      window.chats.runs.tab("Vote");
      whenThere("vote-rematch");
    }
  });

  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof Element
      && event.target.closest("input, textarea, select, [contenteditable=true], [role=slider]");
    if (typing || !isSeen() || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "u" || event.key === "U") undo();
    else if (KEYS[event.key]) answer(KEYS[event.key]);
    else return;
    event.preventDefault();
  });

  // A match that comes again after an undo may be answered again; a reload shows the same one.
  new MutationObserver(() => {
    if (document.querySelector("#vote-told [data-kind=error]")) sent = "";
    const shown = arena();
    if (!shown || shown.dataset.noted) return;
    shown.dataset.noted = "yes";
    sent = "";
    sessionStorage.setItem(SHOWN, shown.dataset.match);
  }).observe(document, { childList: true, subtree: true });
})();
