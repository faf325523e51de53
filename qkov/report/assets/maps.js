// The maps: one picture per block, a cell per slice; a cell of K or V spans the query heads that its kv head serves.

const panels = new Map();

const cellSize = () => {
  const size = (n, steps) => steps.find(([most]) => n <= most)[1];
  const wide = size(grid.heads.length, [[2, 44], [8, 30], [16, 22], [32, 14], [Infinity, 7]]);
  const high = size(grid.layers.length, [[2, 36], [8, 26], [16, 20], [32, 14], [Infinity, 8]]);
  return [wide, high];
};

const labelled = (numbers, size, room) => {
  const step = [1, 2, 4, 5, 8, 10, 16, 20, 32].find((one) => one * size >= room) ?? 64;
  return numbers.map((number, at) => [number, at]).filter(([, at]) => at % step === 0);
};

// Query heads of a layer in runs with the same kv head: [kv, first, last].
const runs = (row) => {
  const found = [];
  grid.kv_index[row].forEach((kv, at) => {
    const last = found.at(-1);
    if (last && last[0] === kv) last[2] = at;
    else found.push([kv, at, at]);
  });
  return found.filter(([kv]) => kv >= 0);
};

const LEFT = 36;
const TOP = 6;
const BOTTOM = 36;
const LEAST = 160; // room for the words below

const buildPanel = (block) => {
  const [wide, high] = cellSize();
  const width = LEFT + Math.max(wide * grid.heads.length, LEAST) + 8;
  const height = TOP + high * grid.layers.length + BOTTOM;
  const svg = draw("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "data-block": block,
    "aria-label": `Map of block ${block}: ${grid.layers.length} layers, ${grid.heads.length} heads. Arrow keys move.`,
    "aria-describedby": "keys",
  });
  const hatch = draw("pattern", { id: `hatch-${block}`, width: 5, height: 5, patternUnits: "userSpaceOnUse" });
  hatch.append(draw("path", { d: "M-1,6 L6,-1", class: "hatch" }));
  const dots = draw("pattern", { id: `dots-${block}`, width: 4, height: 4, patternUnits: "userSpaceOnUse" });
  dots.append(draw("rect", { width: 4, height: 4, class: "ground" }), draw("circle", { cx: 2, cy: 2, r: 0.8, class: "dot" }));
  const defs = draw("defs");
  defs.append(hatch, dots);
  const absent = draw("g");
  for (const [row, head] of absentCells(block)) {
    absent.append(draw("rect", { x: LEFT + head * wide, y: TOP + row * high, width: wide, height: high, fill: `url(#hatch-${block})` }));
  }
  const cells = draw("g", { class: "cells" });
  const boxes = new Map();
  const gap = wide >= 14 ? 1 : 0.5;
  const add = (index, first, last, row) => {
    const box = { x: LEFT + first * wide, y: TOP + row * high, width: (last - first + 1) * wide, height: high };
    const rect = draw("rect", {
      x: box.x, y: box.y, width: box.width - gap, height: box.height - gap, "data-index": index,
    });
    cells.append(rect);
    if (!boxes.has(index)) boxes.set(index, []);
    boxes.get(index).push({ rect, ...box });
  };
  grid.layers.forEach((_, row) => {
    if ("KV".includes(block)) {
      for (const [kv, first, last] of runs(row)) {
        const index = sliceAt(block, row, kv);
        if (index !== undefined) add(index, first, last, row);
      }
    } else {
      grid.heads.forEach((_, head) => {
        const index = sliceAt(block, row, head);
        if (index !== undefined) add(index, head, head, row);
      });
    }
  });
  const over = { signs: draw("g", { class: "signs" }), marks: draw("g", { class: "marks" }), rings: draw("g", { class: "rings" }) };
  svg.append(defs, absent, cells, groupLines(wide, high), over.signs, over.marks, over.rings, axes(block, wide, high));
  const place = document.querySelector(`#panel-${block} .plot`);
  place.closest(".panels").style.maxWidth = `${2 * width + 40}px`; // one column, or two, but not three and one
  place.append(svg);
  panels.set(block, { svg, cells, boxes, wide, high, ...over, cursor: null });
  drawMarks(block);
};

// Where the model has no slice: [row, place of the query head].
const absentCells = (block) =>
  grid.layers.flatMap((_, row) =>
    grid.heads.flatMap((_, head) => {
      const unit = "KV".includes(block) ? grid.kv_index[row][head] : head;
      return unit < 0 || sliceAt(block, row, unit) === undefined ? [[row, head]] : [];
    }),
  );

// Lines between groups of query heads that share a kv head, where all layers group alike.
const groupLines = (wide, high) => {
  const lines = draw("g", { class: "groups" });
  const row = commonRuns();
  if (row === null || row.length === grid.heads.length) return lines;
  for (const [, first] of row.slice(1)) {
    const x = LEFT + first * wide - 0.5;
    lines.append(draw("line", { x1: x, x2: x, y1: TOP, y2: TOP + high * grid.layers.length }));
  }
  return lines;
};

const commonRuns = () => {
  const rows = grid.layers.map((_, row) => runs(row)).filter((row) => row.length);
  return rows.length && rows.every((row) => JSON.stringify(row) === JSON.stringify(rows[0])) ? rows[0] : null;
};

const axes = (block, wide, high) => {
  const labels = draw("g", { class: "axis" });
  const bottom = TOP + high * grid.layers.length;
  const put = (text, x, y, anchor) => {
    const one = draw("text", { x, y, "text-anchor": anchor });
    one.textContent = text;
    labels.append(one);
  };
  for (const [number, at] of labelled(grid.layers, high, 13)) put(number, LEFT - 5, TOP + at * high + high / 2 + 3.5, "end");
  const row = "KV".includes(block) ? commonRuns() : null;
  if (row === null) {
    for (const [number, at] of labelled(grid.heads, wide, 19)) put(number, LEFT + at * wide + wide / 2, bottom + 13, "middle");
  } else {
    for (const [kv, first, last] of row) {
      const [from, to] = [LEFT + first * wide + 2, LEFT + (last + 1) * wide - 3];
      if (last > first) labels.append(draw("path", { d: `M${from},${bottom + 1.5} v2.5 H${to} v-2.5`, class: "bracket" }));
      put(grid.kv_heads[kv], (from + to) / 2, bottom + 15, "middle");
    }
  }
  const spans = row !== null && row.some(([, first, last]) => last > first);
  put(row === null ? "query head" : spans ? "kv head, over its query heads" : "kv head", LEFT, bottom + 29, "start");
  const layer = draw("text", { transform: `translate(10 ${(TOP + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" });
  layer.textContent = "layer";
  labels.append(layer);
  return labels;
};

const drawMarks = (block) => {
  const panel = panels.get(block);
  panel.marks.replaceChildren();
  if (data.marks === null || !state.marks) return;
  for (const [index, boxes] of panel.boxes) {
    const mark = data.marks[index];
    if (!mark) continue;
    for (const box of boxes) {
      const [x, y] = [box.x + box.width / 2 - 0.5, box.y + box.height / 2 - 0.5];
      const size = Math.max(2, Math.min(5, 0.24 * Math.min(panel.wide, panel.high)));
      panel.marks.append(mark === 2 ? draw("circle", { cx: x, cy: y, r: size }) : draw("path", { d: diamond(x, y, size) }));
    }
  }
};

const diamond = (x, y, size) => `M${x},${y - size} L${x + size},${y} L${x},${y + size} L${x - size},${y} Z`;

// Colours.

const mapped = () => data.maps[state.map];
const scaled = (map, value) => (map.logarithmic ? Math.log(value) : value);

const rangeOf = (map, values) => {
  const known = values.filter((value) => value !== null && Number.isFinite(scaled(map, value))).map((value) => scaled(map, value));
  let [low, high] = [0, 0];
  for (const value of known) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (map.kind === "diverging") {
    const most = Math.max(-low, high) || 1;
    return [-most, most];
  }
  return [low, high > low ? high : low + 1];
};

const paint = () => {
  const map = mapped();
  const values = columns.get(map.column).values;
  const shared = state.shared ?? map.shared;
  const turned = map.kind === "diverging" && map.conflict === "high";
  const kind = turned ? "turned" : map.kind;
  const whole = rangeOf(map, values);
  let [untested, absent] = [false, false];
  for (const [block, panel] of panels) {
    const own = [...panel.boxes.keys()].map((index) => values[index]);
    const [low, high] = shared ? whole : rangeOf(map, own);
    panel.cells.setAttribute("class", `cells ${kind}`);
    panel.signs.replaceChildren();
    for (const [index, boxes] of panel.boxes) {
      const value = values[index];
      const at = value === null ? NaN : scaled(map, value);
      const empty = value === null || Number.isNaN(at);
      untested ||= empty;
      const step = Math.round(((Math.min(high, Math.max(low, at)) - low) / (high - low)) * (map.steps - 1));
      for (const box of boxes) {
        if (empty) {
          box.rect.removeAttribute("class");
          box.rect.setAttribute("fill", `url(#dots-${block})`);
        } else {
          box.rect.removeAttribute("fill");
          box.rect.setAttribute("class", `c${step}`);
        }
        if (map.kind === "diverging" && at < 0) {
          const bar = { x: box.x + box.width / 2 - panel.wide / 4 - 0.5, y: box.y + box.height - 4.5 };
          panel.signs.append(draw("rect", { ...bar, width: panel.wide / 2, height: 1.6 }));
        }
      }
    }
    absent ||= absentCells(block).length > 0;
    colourBar(block, map, kind, low, high);
  }
  document.body.classList.toggle("show-signs", state.signs);
  document.getElementById("note").textContent = [map.unit && `Colour: ${map.unit}.`, map.note].filter(Boolean).join(" ");
  showKey(map, untested, absent);
};

const colourBar = (block, map, kind, low, high) => {
  const place = document.querySelector(`#panel-${block} .bar`);
  const bar = draw("svg", { width: 160, height: 10, class: kind, "aria-hidden": "true" });
  for (let step = 0; step < map.steps; step += 1) bar.append(draw("rect", { x: (step * 160) / map.steps, width: 160 / map.steps + 0.3, height: 10, class: `c${step}` }));
  const back = (value) => written(map.logarithmic ? Math.exp(value) : value, 3);
  const middle = map.kind === "diverging" ? [make("span", map.logarithmic ? "1" : "0", { class: "middle" })] : [];
  const labels = make("div", [make("span", back(low)), ...middle, make("span", back(high))], { class: "ends" });
  place.replaceChildren(...(data.measured ? [make("div", [bar, labels], { class: "scale" })] : [make("em", "nothing was measured")]));
};

const showKey = (map, untested, absent) => {
  const items = [];
  const item = (picture, text, kind = "") => items.push(make("span", [picture, text], { class: `item ${kind}` }));
  const sign = (shape) => {
    const svg = draw("svg", { width: 16, height: 14, class: "marks", "aria-hidden": "true" });
    svg.append(shape);
    return svg;
  };
  if (data.marks !== null) {
    const number = (level) => {
      const found = data.marks.filter((mark) => mark === level).length;
      return `${found} ${found === 1 ? "slice" : "slices"}`;
    };
    item(sign(draw("circle", { cx: 7, cy: 7, r: 4.5 })), `survives: family-wise p ≤ ${data.alpha} (${number(2)})`);
    if (data.marks.includes(1)) item(sign(draw("path", { d: diamond(7, 7, 5) })), `only q ≤ ${data.alpha} (${number(1)})`);
  }
  const patch = (pattern) => {
    const svg = draw("svg", { width: 16, height: 14, "aria-hidden": "true" });
    svg.append(draw("rect", { width: 14, height: 14, fill: `url(#${pattern}-Q)` }));
    return svg;
  };
  if (absent) item(patch("hatch"), "the model has no such slice");
  if (untested) item(patch("dots"), data.measured ? "no number: nothing could be tested or predicted there" : "nothing was measured");
  if (map.kind === "diverging") {
    const bar = draw("svg", { width: 16, height: 14, class: "signs", "aria-hidden": "true" });
    bar.append(draw("rect", { x: 1, y: 6, width: 12, height: 2 }));
    item(bar, map.logarithmic ? "below 1" : "below 0", "sign-item");
  }
  document.getElementById("key").replaceChildren(...items);
};

// Outlines of the slice that is shown, and of what shares its kv head in the other blocks.
const outline = () => {
  const index = state.pointed ?? state.chosen;
  for (const panel of panels.values()) panel.rings.replaceChildren();
  if (index === null) return;
  const kv = groupOf(index);
  for (const [block, panel] of panels) {
    const ringed = [];
    for (const [other, boxes] of panel.boxes) {
      const same = other === index;
      if (!same && (kv < 0 || slices.layer[other] !== slices.layer[index] || groupOf(other) !== kv)) continue;
      if (!same && block === slices.block[index]) continue;
      ringed.push(...boxes.map((box) => ({ ...box, kind: same ? "own" : "related" })));
    }
    for (const box of merged(ringed)) {
      panel.rings.append(draw("rect", { x: box.x - 1, y: box.y - 1, width: box.width + 1, height: box.height + 1, class: box.kind }));
    }
  }
};

// Boxes of one row, those that touch made one.
const merged = (boxes) => {
  const found = [];
  for (const box of [...boxes].sort((one, other) => one.x - other.x)) {
    const last = found.at(-1);
    if (last && Math.abs(last.x + last.width - box.x) < 0.1) last.width += box.width;
    else found.push({ ...box });
  }
  return found;
};

const show = (index) => {
  state.pointed = index;
  outline();
  details(index ?? state.chosen);
};

const choose = (index) => {
  state.chosen = index;
  state.pointed = null;
  outline();
  details(index);
  remember();
};

const STEPS_OF_KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// The next slice of a block in a direction, over what is absent; the same one at the edge.
const neighbour = (block, index, [down, right]) => {
  const units = unitsOf(block).length;
  let [layer, unit] = [slices.layer[index], slices.unit[index]];
  for (;;) {
    layer += down;
    unit += right;
    if (layer < 0 || unit < 0 || layer >= grid.layers.length || unit >= units) return index;
    const found = sliceAt(block, layer, unit);
    if (found !== undefined) return found;
  }
};

const listen = (block) => {
  const { svg, cells } = panels.get(block);
  const under = (event) => {
    const found = event.target.dataset?.index;
    return found === undefined ? null : Number(found);
  };
  cells.addEventListener("pointerover", (event) => show(under(event)));
  cells.addEventListener("pointerleave", () => show(null));
  cells.addEventListener("click", (event) => choose(under(event) === state.chosen ? null : under(event)));
  svg.addEventListener("focus", () => {
    const own = state.chosen !== null && slices.block[state.chosen] === block ? state.chosen : slices.block.indexOf(block);
    if (own >= 0 && svg.matches(":focus-visible")) tell(own);
  });
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const step = STEPS_OF_KEYS[event.key];
    const current = state.pointed ?? state.chosen;
    const here = current !== null && slices.block[current] === block ? current : slices.block.indexOf(block);
    if (here < 0) return;
    if (step) tell(neighbour(block, here, step));
    else if (event.key === "Enter" || event.key === " ") choose(here);
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  });
};

const tell = (index) => {
  show(index);
  const map = mapped();
  document.getElementById("said").textContent =
    `${title(index)}: ${map.label} ${written(columns.get(map.column).values[index])}; ${markWords(index)}`;
};
