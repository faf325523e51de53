// Numbers and elements. Text only ever enters the page through textContent.

const make = (tag, content, attributes = {}) => {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) one.setAttribute(name, value);
  one.append(...[content ?? []].flat());
  return one;
};

const draw = (tag, attributes = {}) => {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  return one;
};

const NONE = "—";
const CHANCE = /(^|_)(p|q|p_maxt|p_adjusted)$/;

// Four significant digits, as one reads a single number.
const written = (value, digits = 4) => {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
};

// One form for a whole column, so that its numbers stand digit under digit: {digits, power} or {exponent}. Shares of chance have
// four digits behind the point.
const columnForm = (values, name) => {
  const known = values.filter((value) => typeof value === "number" && value !== 0).map(Math.abs);
  if (!known.length || values.every((value) => value === null || Number.isInteger(value))) return { whole: true };
  let most = 0;
  let least = Infinity;
  for (const value of known) {
    most = Math.max(most, value);
    least = Math.min(least, value);
  }
  if (most / least > 1e5) return { exponent: true };
  const power = most >= 1e-3 && most < 1e5 ? 0 : 3 * Math.floor(Math.log10(most) / 3);
  const lead = Math.floor(Math.log10(most)) - power;
  return { power, digits: CHANCE.test(name) ? 4 : Math.max(0, 3 - lead) };
};

const inForm = (value, form) => {
  if (value === null || value === undefined) return "";
  if (form.whole) return String(value);
  if (form.exponent) return value === 0 ? "0" : value.toExponential(2);
  const fixed = (value / 10 ** form.power).toFixed(form.digits);
  return value !== 0 && Number(fixed) === 0 ? (value / 10 ** form.power).toExponential(1) : fixed;
};
