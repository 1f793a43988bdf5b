"use strict";
document.documentElement.classList.add("js");

// Tabs: one panel of a group at a time.
for (const bar of document.querySelectorAll(".tabs")) {
  const buttons = [...bar.querySelectorAll("button")];
  const show = (chosen) => {
    for (const button of buttons) {
      const is = button === chosen;
      button.setAttribute("aria-selected", is);
      document.getElementById(button.dataset.panel).hidden = !is;
    }
  };
  for (const button of buttons) button.addEventListener("click", () => show(button));
  if (buttons.length) show(buttons[0]);
}

// A point, or a number of a table, leads to its episode, in whichever tab that is.
function follow() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  const panel = target.closest(".panel");
  if (panel && panel.hidden) document.querySelector(`[data-panel="${panel.id}"]`).click();
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView({block: "start"});
}
addEventListener("hashchange", follow);
follow();

// What a point is, beside the pointer or the finger.
const tip = document.getElementById("tip");
for (const dot of document.querySelectorAll(".dot")) {
  dot.querySelector("title").remove();  // the browser's own would come on top
  const show = () => {
    tip.textContent = dot.dataset.tip;
    tip.style.display = "block";
    const box = dot.querySelector(".mark").getBoundingClientRect();
    const left = Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 8) + scrollX}px`;
    tip.style.top = `${box.bottom + 8 + scrollY}px`;
  };
  const hide = () => { tip.style.display = "none"; };
  dot.addEventListener("pointerenter", show);
  dot.addEventListener("focus", show);
  dot.addEventListener("pointerleave", hide);
  dot.addEventListener("blur", hide);
}

// Tables: sorted by a click on a heading, numbers by their size with its unit.
const UNITS = {kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, m: 60, h: 3600};
function worth(text) {
  const found = /^[^\d+-]*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([a-zA-Z]*)/.exec(text.trim());
  return found ? Number(found[1]) * (UNITS[found[2]] || 1) : NaN;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    head.addEventListener("click", () => {
      const up = !head.classList.contains("up");
      for (const other of table.querySelectorAll("th")) other.classList.remove("up", "down");
      head.classList.add(up ? "up" : "down");
      const rows = [...body.rows].map((row) => [row, row.cells[column].textContent]);
      rows.sort(([, a], [, b]) => {
        const one = worth(a), two = worth(b);
        // What is no number comes last, whichever way.
        if (isNaN(one) || isNaN(two)) {
          return isNaN(one) && isNaN(two) ? (up ? 1 : -1) * a.localeCompare(b) : isNaN(one) ? 1 : -1;
        }
        return up ? one - two : two - one;
      });
      body.append(...rows.map(([row]) => row));
    });
  });
}
for (const box of document.querySelectorAll("input.filter")) {
  const body = box.parentElement.querySelector("table").tBodies[0];
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
