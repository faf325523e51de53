// The data of the page: slices by place and by name, and the state of what is chosen.

const data = JSON.parse(document.getElementById("data").textContent);
const { grid, slices } = data;
const BLOCKS = ["Q", "K", "V", "O"];
const columns = new Map(data.columns.map((one) => [one.name, one]));
const state = { chosen: null, pointed: null, map: 0, shared: null, signs: false, marks: true };

const count = slices.block.length;
const ownKv = (index) => "KV".includes(slices.block[index]);
const unitsOf = (block) => ("KV".includes(block) ? grid.kv_heads : grid.heads);
const atPlace = new Map();
const byKey = new Map();

const key = (index) => {
  const block = slices.block[index];
  return `${block}-${grid.layers[slices.layer[index]]}-${unitsOf(block)[slices.unit[index]]}`;
};

for (let index = 0; index < count; index += 1) {
  atPlace.set(`${slices.block[index]}${slices.layer[index]},${slices.unit[index]}`, index);
  byKey.set(key(index), index);
}

const sliceAt = (block, layer, unit) => atPlace.get(`${block}${layer},${unit}`);

// Place of the kv head of a slice; -1 where the layer has none.
const groupOf = (index) => (ownKv(index) ? slices.unit[index] : grid.kv_index[slices.layer[index]][slices.unit[index]]);

const headsOf = (layer, kv) => grid.heads.filter((_, at) => grid.kv_index[layer][at] === kv);

const title = (index) => {
  const block = slices.block[index];
  const unit = ownKv(index) ? "kv head" : "head";
  return `${block}, layer ${grid.layers[slices.layer[index]]}, ${unit} ${unitsOf(block)[slices.unit[index]]}`;
};

const groupWords = (index) => {
  const kv = groupOf(index);
  if (kv < 0) return "reads no kv head of its own layer";
  const heads = headsOf(slices.layer[index], kv);
  const served = heads.length === 1 ? `head ${heads[0]}` : `heads ${heads.join(", ")}`;
  if (heads.length === 1 && !ownKv(index)) return `kv head ${grid.kv_heads[kv]}`;
  return ownKv(index) ? `serves query ${served}` : `kv head ${grid.kv_heads[kv]}, shared by ${served}`;
};

const MARKS = ["does not survive", "survives only the false discovery rate", "survives the family-wise error"];
const markWords = (index) => {
  if (data.marks === null) return "not tested: there are no tests";
  const mark = data.marks[index];
  return mark === null ? "not tested: rounding noise, or not among the tested layers" : MARKS[mark];
};
