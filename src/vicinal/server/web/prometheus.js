// Reading the text of /metrics.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples of a page: a list of {name, labels, value}. */
export function read(page) {
  const samples = [];
  for (const line of page.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels = Object.create(null);
    for (const [, name, text] of (found[2] ?? "").matchAll(LABEL)) labels[name] = text.replace(/\\([\\"n])/g, (_, c) => (c === "n" ? "\n" : c));
    samples.push({ name: found[1], labels, value: Number(found[3].replace("Inf", "Infinity")) });
  }
  return samples;
}

/** The sum of a metric's samples whose labels fit. */
export function total(samples, name, fits = () => true) {
  let sum = 0;
  for (const sample of samples) if (sample.name === name && fits(sample.labels)) sum += sample.value;
  return sum;
}

/** {upper bound: count} of a histogram, over all of its other labels. */
function buckets(samples, name, fits) {
  const sums = new Map();
  for (const { name: n, labels, value } of samples) {
    if (n !== `${name}_bucket` || !fits(labels)) continue;
    const bound = Number(labels.le.replace("Inf", "Infinity"));
    sums.set(bound, (sums.get(bound) ?? 0) + value);
  }
  return sums;
}

/** A quantile of what a histogram counted between two readings, between its bounds by a straight line; null for nothing. */
export function quantile(before, after, name, share, fits = () => true) {
  const earlier = buckets(before, name, fits);
  const counts = [...buckets(after, name, fits)].sort((a, b) => a[0] - b[0]).map(([bound, n]) => [bound, n - (earlier.get(bound) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let low = 0, under = 0;
  for (const [bound, n] of counts) {
    if (n >= share * all) return bound === Infinity ? low : low + (bound - low) * ((share * all - under) / Math.max(n - under, 1e-9));
    low = bound;
    under = n;
  }
  return low;
}
