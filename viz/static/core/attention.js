// What the lens shows of attention.REQ, (layers, heads, queries, keys), where the arrays lie in the
// page: in an exported file, or beside a trace of the reader's own. minivllm/trace/lens.py is the same for
// the server; tests/data/lens.json holds both to the same. Pure.

const MAX_BINS = 48;
const [MAX_CELLS, MAX_COLUMNS] = [120_000, 1024];
const MAX_READ = 4_000_000;

// `source`: {shape(name), part(name, at) → numbers in one list, kvHeads}. `what` is row | heads | matrix;
// without a layer or a head it is the mean of them all, without a query the last one.
export function answerOf(source, req, what, { layer = null, head = null, query = null, block = 16, most = MAX_CELLS }) {
  const name = `attention.${req}`;
  const [layers, heads, queries, keys] = source.shape(name);
  const of = { layers: chosen("layer", layer, layers), heads: chosen("head", head, heads) };
  const [asked] = query === null ? [queries - 1] : chosen("query", query, queries);
  const about = { query: asked, layers, heads, queries, keys, kv_heads: source.kvHeads };
  const rows = (each, one = of) => one.layers.flatMap((l) => one.heads.map((h) => source.part(name, [l, h, each])));
  if (what === "row") return { ...about, weights: meanOf(rows(asked)) };
  if (what === "heads") return { ...about, ...overview((l, h) => rows(asked, { layers: [l], heads: [h] })[0], about, block) };
  const size = of.layers.length * of.heads.length * queries * keys;
  if (size > MAX_READ) {
    throw new Error(`the mean over ${of.layers.length} layers and ${of.heads.length} heads is one of ${size} numbers; at most ${MAX_READ}: name a layer, or a layer and a head`);
  }
  return { ...about, ...matrix(rows, about, block, most) };
}

function chosen(name, index, size) {
  if (index === null) return range(size);
  if (!Number.isInteger(index) || index < 0 || index >= size) throw new Error(`${name}: got ${index}; allowed: 0 to ${size - 1}`);
  return [index];
}

const range = (size) => Array.from({ length: size }, (_, i) => i);

function meanOf(rows) {
  if (rows.length === 1) return rows[0];
  const sum = new Float64Array(rows[0].length);
  for (const row of rows) for (let i = 0; i < sum.length; i += 1) sum[i] += row[i];
  return Array.from(sum, (each) => each / rows.length);
}

function sumsBy(weights, by) {
  const sums = new Array(Math.ceil(weights.length / by)).fill(0);
  weights.forEach((weight, i) => (sums[Math.floor(i / by)] += weight));
  return sums;
}

function overview(rowOf, { query, layers, heads, queries, keys }, block) {
  const position = keys - queries + query;
  const by = keys <= MAX_BINS ? 1 : block * Math.ceil(Math.ceil(keys / block) / MAX_BINS);
  const cells = range(layers).map((l) => range(heads).map((h) => cellOf(rowOf(l, h), position, by)));
  const told = ["entropy", "distance", "first", "own", "bins"].map((name) => [name, cells.map((line) => line.map((cell) => cell[name]))]);
  return { bin_keys: by, ...Object.fromEntries(told) };
}

function cellOf(weights, position, by) {
  let [entropy, distance] = [0, 0];
  weights.forEach((weight, key) => {
    if (weight > 0) entropy -= weight * Math.log2(weight);
    distance += weight * (position - key);
  });
  return { entropy: Math.max(entropy, 0), distance, first: weights[0], own: weights[position], bins: sumsBy(weights, by) };
}

// Too many are summed up by block, then averaged in groups of queries.
function matrix(rows, { queries, keys }, block, most) {
  let keysBy = queries * keys <= most ? 1 : block;
  while (keysBy > 1 && Math.ceil(keys / keysBy) > MAX_COLUMNS) keysBy *= 2;
  const queriesBy = Math.ceil((queries * Math.ceil(keys / keysBy)) / most);
  const values = [];
  for (let begin = 0; begin < queries; begin += queriesBy) {
    const group = range(Math.min(queriesBy, queries - begin)).map((i) => begin + i);
    values.push(sumsBy(meanOf(group.flatMap((query) => rows(query))), keysBy));
  }
  return { keys_by: keysBy, queries_by: queriesBy, values };
}
