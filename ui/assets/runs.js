// The Runs tab: which run is open (it stands in the address), asking for news, and what a new
// piece of the page must not lose: where a log was read, the value under the pointer.
(() => {
  const ASKS_EVERY_MS = 2000;
  const asked = () => new URLSearchParams(location.search).get("run") || "";
  let open = asked();

  const click = (id) => document.getElementById(id)?.click();
  const tab = (name) =>
    [...document.querySelectorAll("#chats-tabs :is(button[role=tab], .overflow-dropdown button)")]
      .find((button) => button.textContent.trim() === name)
      ?.click();
  const isSeen = () => document.getElementById("runs-page")?.offsetParent != null && !document.hidden;

  const show = (run, { remember = true } = {}) => {
    open = run;
    const address = new URL(location.href);
    if (run) address.searchParams.set("run", run);
    else address.searchParams.delete("run");
    if (remember) history.pushState(null, "", address);
    if (!isSeen()) tab("Runs");
    scrollTo(0, 0);
    click("runs-open");
  };

  window.chats.runs = {
    tab,
    opened: () => open,
    start() {
      if (open) tab("Runs");
      return open;
    },
    save: () => setTimeout(() => document.querySelector("#runs-sent")?.click(), 50),
  };

  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element && event.target.closest("[data-run]");
    if (!link || event.metaKey || event.ctrlKey || event.button !== 0) return;
    event.preventDefault();
    show(link.dataset.run);
  });
  addEventListener("popstate", () => show(asked(), { remember: false }));

  setInterval(() => {
    const gone = document.querySelector("#runs-page [data-gone]")?.dataset.gone;
    if (gone && gone === open) {
      open = "";
      const address = new URL(location.href);
      address.searchParams.delete("run");
      history.replaceState(null, "", address);
    }
    if (isSeen()) click("runs-poll");
  }, ASKS_EVERY_MS);

  // A log stays where it is read; at its end it follows.
  let fromEnd = 0;
  document.addEventListener(
    "scroll",
    ({ target }) => {
      if (target instanceof Element && target.matches(".log-lines"))
        fromEnd = target.scrollHeight - target.scrollTop - target.clientHeight;
    },
    true,
  );
  const place = (log) => {
    if (log.dataset.placed) return;
    log.dataset.placed = "yes";
    log.scrollTop = log.scrollHeight - log.clientHeight - (fromEnd > 30 ? fromEnd : 0);
  };
  new MutationObserver(() => document.querySelectorAll(".log-lines").forEach(place)).observe(
    document,
    { childList: true, subtree: true },
  );

  // The values at the step under the pointer.
  const number = (value) =>
    Math.abs(value) >= 1000 || value === Math.round(value)
      ? String(Math.round(value))
      : String(Number(value.toPrecision(3)));
  document.addEventListener("pointermove", (event) => {
    const figure = event.target instanceof Element && event.target.closest(".plot");
    document.querySelectorAll(".plot output[data-key]").forEach((output) => {
      if (figure && figure.contains(output)) return;
      output.innerHTML = output.dataset.key;
      delete output.dataset.key;
      output.closest(".plot").querySelector(".cursor")?.remove();
    });
    if (!figure) return;
    const svg = figure.querySelector("svg");
    const output = figure.querySelector("output");
    const { width } = svg.viewBox.baseVal;
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const [left, right, top, bottom] = figure.dataset.box.split(" ").map(Number);
    const { x0, x1, y0, y1 } = figure.dataset;
    let at = null;
    const found = [...svg.querySelectorAll("polyline.smooth")].map((line) => {
      const points = [...line.points];
      const near = points.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
      if (at === null || Math.abs(near.x - x) < Math.abs(at - x)) at = near.x;
      const value = +y1 - ((near.y - top) / (bottom - top)) * (y1 - y0);
      return `<b data-line="${line.dataset.line}">${number(value)}</b>`;
    });
    const place = +x0 + ((at - left) / (right - left)) * (x1 - x0);
    const name = figure.dataset.xName;
    if (output.dataset.key === undefined) output.dataset.key = output.innerHTML;
    output.innerHTML = `${name} ${name === "step" ? Math.round(place) : number(place)}: ${found.join(" ")}`;
    let cursor = svg.querySelector(".cursor");
    if (!cursor) {
      cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
      cursor.setAttribute("class", "cursor");
      svg.append(cursor);
    }
    for (const [name, place] of Object.entries({ x1: at, x2: at, y1: top, y2: bottom }))
      cursor.setAttribute(name, place);
  });
})();
