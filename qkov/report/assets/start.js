// Controls, deep links, and the start. A link such as report.html#select=Q-0-3&map=effect&sort=p opens the page on that slice; of K
// and V the last number is that of the kv head.

let reading = true; // until the link that opened the page is followed

const remember = () => {
  if (reading) return;
  const said = new URLSearchParams();
  if (state.chosen !== null) said.set("select", key(state.chosen));
  if (state.map) said.set("map", mapped().column);
  const hash = said.size ? `#${said}` : location.pathname.split("/").at(-1);
  if (said.size || location.hash.includes("=")) history.replaceState(null, "", hash);
};

const follow = () => {
  const hash = location.hash.slice(1);
  reading = true;
  if (hash.includes("=")) followed(hash); // else it is a link to a section
  reading = false;
};

const followed = (hash) => {
  const said = new URLSearchParams(hash);
  const map = data.maps.findIndex((one) => one.column === said.get("map"));
  if (map >= 0) pickMap(map);
  if (said.has("filter")) tables.get("slices").filter(said.get("filter"));
  if (said.has("sort")) tables.get("slices").sort(said.get("sort"), said.has("descending"));
  if (byKey.has(said.get("select"))) choose(byKey.get(said.get("select")));
};

const pickMap = (number) => {
  state.map = number;
  state.shared = null;
  document.querySelectorAll("#controls [name=map]").forEach((one, at) => { one.checked = at === number; });
  document.getElementById("shared").checked = mapped().shared;
  paint();
  remember();
};

const buildControls = () => {
  const choices = data.maps.map((one, at) => {
    const radio = make("input", null, { type: "radio", name: "map", value: one.column });
    radio.addEventListener("change", () => pickMap(at));
    return make("label", [radio, make("span", one.label)]);
  });
  const tick = (id, text, on, act) => {
    const box = make("input", null, { type: "checkbox", id });
    box.checked = on;
    box.addEventListener("change", () => act(box.checked));
    return make("label", [box, ` ${text}`]);
  };
  const ticks = [tick("shared", "one colour scale for all blocks", false, (on) => { state.shared = on; paint(); })];
  if (data.marks !== null) ticks.push(tick("marked", "marks", true, (on) => { state.marks = on; BLOCKS.forEach(drawMarks); }));
  if (data.maps.some((one) => one.kind === "diverging")) ticks.push(tick("signs", "bars below the middle colour", false, (on) => { state.signs = on; paint(); }));
  document.getElementById("controls").append(make("div", choices, { class: "choices", role: "radiogroup", "aria-label": "What the colours show" }), make("div", ticks, { class: "controls" }));
};

const buildTheme = () => {
  const order = { "": "dark", dark: "light", light: "" };
  const button = document.getElementById("theme");
  const words = { "": "Theme: as the system", dark: "Theme: dark", light: "Theme: light" };
  const set = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.textContent = words[theme];
  };
  button.addEventListener("click", () => set(order[document.documentElement.dataset.theme ?? ""]));
  set("");
};

for (const link of document.querySelectorAll("a.png")) link.href = link.closest("figure").querySelector("img").src;
buildTheme();
buildControls();
BLOCKS.forEach(buildPanel);
BLOCKS.forEach(listen);
buildTables();
pickMap(0);
details(null);
follow();
addEventListener("hashchange", follow);
document.documentElement.dataset.ready = "yes";
