// Everything on one slice: its labels, numbers in groups, and its strongest pairs of samples.

const details = (index) => {
  const place = document.getElementById("details");
  if (index === null) {
    place.replaceChildren(make("h3", "No head chosen"), make("p", "Point at a cell of a map, or choose a row of a table.", { class: "fine" }));
    delete place.dataset.key;
    return;
  }
  place.dataset.key = key(index);
  const state_ = data.marks === null ? null : data.marks[index];
  place.replaceChildren(
    make("h3", title(index)),
    make("p", groupWords(index), { class: "group" }),
    make("p", markWords(index), { class: `mark mark-${state_ ?? "none"}` }),
    ...numbersOf(index),
    ...pairsOf(index),
  );
};

const numbersOf = (index) => {
  const ends = new Set(data.columns.flatMap((one) => [one.low, one.high]).filter(Boolean));
  const groups = new Map();
  for (const one of data.columns) {
    if (ends.has(one.name)) continue;
    const value = one.values[index];
    const interval = one.low ? [columns.get(one.low).values[index], columns.get(one.high).values[index]] : null;
    const cell = make("dd", written(value), { "data-name": one.name });
    if (interval && interval[0] !== null) cell.append(make("span", ` [${interval.map((one) => written(one)).join(", ")}]`, { class: "interval" }));
    if (!groups.has(one.group)) groups.set(one.group, make("dl"));
    groups.get(one.group).append(make("dt", one.label), cell);
  }
  return [...groups].flatMap(([group, list]) => [make("h4", group), list]);
};

const pairsOf = (index) =>
  data.pairs.flatMap((one) => {
    if (!one.score[index].length) return [];
    const words = one.order === "ascending" ? "lowest scores" : "highest scores";
    const rows = one.score[index].map((score, at) => {
      const [a, b] = [one.a[index][at], one.b[index][at]];
      const names = [make("bdi", data.samples.a[a]), " × ", make("bdi", data.samples.b[b])];
      const found = [make("li", [make("span", names, { class: "ids" }), make("span", written(score), { class: "number" })])];
      if (data.texts !== null) {
        for (const text of [data.texts.a[a], data.texts.b[b]]) if (text !== null) found[0].append(make("pre", text, { dir: "auto" }));
      }
      return found[0];
    });
    const several = data.pairs.length > 1 ? `, ${one.name}` : "";
    return [
      make("h4", `Pairs of samples with the ${words}${several}`),
      make("ol", rows, { class: "pairs" }),
      make("p", "Listed because they are extreme; no pair has a p value.", { class: "fine" }),
    ];
  });
