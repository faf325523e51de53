// Tables that sort by any column, filter by words and comparisons, and show a page at a time.

const PAGE = 50;
const tables = new Map();

class DataTable {
  constructor(id, all, { row = null, tools = true } = {}) {
    this.all = all;
    this.row = row;
    this.count = all.length ? all[0].values.length : 0;
    this.forms = new Map(all.map((one) => [one.name, one.text ? null : columnForm(one.values, one.name)]));
    this.sorted = null;
    this.descending = false;
    this.start = 0;
    this.words = "";
    this.survivors = false;
    this.everything = false;
    this.place = document.getElementById(`table-${id}`);
    this.id = id;
    this.said = make("p", null, { class: "fine", role: "status", "aria-live": "polite" });
    this.pages = make("div", null, { class: "pages" });
    this.table = make("table");
    const scroll = make("div", this.table, { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table of ${id}` });
    this.place.append(...(tools ? [this.tools()] : []), this.said, scroll, this.pages);
  }

  tools() {
    const input = make("input", null, { type: "search", id: `filter-${this.id}`, spellcheck: "false", size: 30,
      placeholder: this.id === "slices" ? "such as: Q layer>=2 score>0" : "words, or score>0" });
    input.addEventListener("input", () => this.filter(input.value));
    this.input = input;
    const found = [make("label", ["Filter ", input])];
    const tick = (text, act) => {
      const box = make("input", null, { type: "checkbox" });
      box.addEventListener("change", () => act(box.checked));
      found.push(make("label", [box, ` ${text}`]));
    };
    if (this.id === "slices" && data.marks !== null) tick("only what survives", (on) => this.set({ survivors: on, start: 0 }));
    if (this.all.some((one) => one.more)) tick("all columns", (on) => this.set({ everything: on }));
    const button = make("button", "Save as CSV", { type: "button" });
    button.addEventListener("click", () => this.save());
    found.push(button);
    return make("div", found, { class: "controls" });
  }

  set(changes) {
    Object.assign(this, changes);
    this.render();
  }

  filter(words) {
    this.words = words;
    if (this.input && this.input.value !== words) this.input.value = words;
    this.set({ start: 0 });
  }

  sort(name, descending = this.sorted === name ? !this.descending : false) {
    if (this.all.some((one) => one.name === name)) this.set({ sorted: name, descending, start: 0 });
  }

  shown() {
    return this.all.filter((one) => this.everything || !one.more || one.name === this.sorted);
  }

  // Rows that pass, in order; numbers by size, missing ones last whatever the direction, equal ones as they were.
  rows() {
    const { passes, problem } = this.condition();
    let rows = [...Array(this.count).keys()].filter((at) => passes(at) && (!this.survivors || data.marks[at] === 2));
    const column = this.all.find((one) => one.name === this.sorted);
    if (column) {
      const missing = (value) => value === null || value === "";
      const sign = this.descending ? -1 : 1;
      rows.sort((one, other) => {
        const [a, b] = [column.values[one], column.values[other]];
        if (missing(a) || missing(b)) return missing(a) - missing(b) || one - other;
        const order = column.text ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
        return sign * order || one - other;
      });
    }
    return { rows, problem };
  }

  condition() {
    const tests = [];
    for (const word of this.words.trim().split(/\s+/).filter(Boolean)) {
      const [, name, sign, text] = word.match(/^([a-zA-Z_]+)(<=|>=|<|>|=|:)(.*)$/) ?? [];
      const column = name && this.all.find((one) => one.name === name);
      if (name && !column) return { passes: () => true, problem: `There is no column ${name}; there are ${this.all.map((one) => one.name).join(", ")}.` };
      if (column && !column.text) {
        const number = text === "" ? NaN : Number(text);
        if (Number.isNaN(number)) return { passes: () => true, problem: `${word}: expected a number behind ${sign}` };
        tests.push((at) => column.values[at] !== null && compare(column.values[at], sign, number));
      } else {
        const wanted = (column ? text : word).toLowerCase();
        const within = column ? [column] : this.all.filter((one) => one.text);
        tests.push((at) => within.some((one) => one.name === "block" ? one.values[at].toLowerCase() === wanted : one.values[at].toLowerCase().includes(wanted)));
      }
    }
    return { passes: (at) => tests.every((test) => test(at)), problem: "" };
  }

  render() {
    const { rows, problem } = this.rows();
    const shown = this.shown();
    const part = rows.slice(this.start, this.start + PAGE);
    const head = make("thead", make("tr", shown.map((one) => this.heading(one))));
    const body = make("tbody", part.map((at) => this.line(at, shown)));
    const focused = this.table.contains(document.activeElement) ? document.activeElement.dataset.sort : null;
    this.table.replaceChildren(head, body);
    if (focused) this.table.querySelector(`[data-sort="${focused}"]`)?.focus();
    const to = Math.min(this.start + PAGE, rows.length);
    this.said.textContent = problem || (rows.length ? `Rows ${this.start + 1} to ${to} of ${rows.length}` + (rows.length < this.count ? `, of ${this.count} in all` : "") : "No rows");
    this.said.classList.toggle("problem", Boolean(problem));
    this.turn(rows.length);
  }

  heading(one) {
    const form = this.forms.get(one.name);
    const power = form && form.power ? [make("span", ["×10", make("sup", String(form.power))], { class: "power" })] : [];
    const arrow = this.sorted === one.name ? (this.descending ? " ↓" : " ↑") : "";
    const button = make("button", [make("span", one.label + arrow), ...power], { type: "button", "data-sort": one.name, title: `Column ${one.name}: sort` });
    button.addEventListener("click", () => this.sort(one.name));
    const order = this.sorted === one.name ? (this.descending ? "descending" : "ascending") : "none";
    return make("th", button, { scope: "col", "aria-sort": order, class: one.text ? null : "number" });
  }

  line(at, shown) {
    const cells = shown.map((one) => {
      const value = one.values[at];
      const text = one.text ? value : inForm(value, this.forms.get(one.name));
      return make("td", one.text && value !== "" ? make("bdi", text) : text, { class: one.text ? null : "number", "data-name": one.name });
    });
    const line = make("tr", cells);
    if (this.row) this.row(line, at, cells);
    return line;
  }

  turn(number) {
    this.pages.replaceChildren();
    if (number <= PAGE) return;
    const button = (text, start, off) => {
      const one = make("button", text, { type: "button" });
      one.disabled = off;
      one.addEventListener("click", () => this.set({ start }));
      this.pages.append(one);
    };
    button("Previous", Math.max(0, this.start - PAGE), this.start === 0);
    button("Next", this.start + PAGE, this.start + PAGE >= number);
  }

  // Text that a spreadsheet would run as a formula gets a ' in front.
  save() {
    const cell = (value) => {
      if (value === null || value === undefined) return "";
      const text = typeof value === "string" && /^'*[=+\-@\t\r\n＝＋－＠]/.test(value) ? `'${value}` : String(value);
      return `"${text.replaceAll('"', '""')}"`;
    };
    const lines = [this.all.map((one) => cell(one.name)), ...this.rows().rows.map((at) => this.all.map((one) => cell(one.values[at])))];
    const address = URL.createObjectURL(new Blob([lines.map((line) => line.join(",")).join("\r\n")], { type: "text/csv" }));
    const link = make("a", null, { href: address, download: `${this.id}.csv` });
    link.click();
    URL.revokeObjectURL(address);
  }
}

const compare = (value, sign, number) =>
  ({ "<": value < number, "<=": value <= number, ">": value > number, ">=": value >= number, "=": value === number, ":": value === number })[sign];

const buildTables = () => {
  const range = [...Array(count).keys()];
  const kv = range.map((at) => (groupOf(at) < 0 ? null : grid.kv_heads[groupOf(at)]));
  const labels = [
    { name: "block", label: "block", text: true, values: [...slices.block] },
    { name: "layer", label: "layer", values: range.map((at) => grid.layers[slices.layer[at]]) },
    { name: "head", label: "head", values: range.map((at) => (ownKv(at) ? null : grid.heads[slices.unit[at]])) },
    { name: "kv_head", label: "kv head", values: kv },
  ];
  const numbers = data.columns.map((one) => ({ ...one, label: one.heading, text: one.name === "head_type", more: !one.main }));
  const sliceRow = (line, at, cells) => {
    const button = make("button", slices.block[at], { type: "button", class: "open", title: `Show ${title(at)}` });
    button.addEventListener("click", () => choose(at));
    cells[0].replaceChildren(button);
    if (data.marks !== null && data.marks[at]) line.classList.add(`mark-${data.marks[at]}`);
  };
  const table = new DataTable("slices", [...labels, ...numbers], { row: sliceRow });
  tables.set("slices", table);
  if (data.marks === null) table.sort("score", data.order === "descending");
  else table.sort("p_maxt", false);
  for (const [id, all] of Object.entries(data.tables)) {
    const one = new DataTable(id, all, { tools: id === "pairs" });
    tables.set(id, one);
    one.render();
  }
};
