// Maps as maps.py packs them: read, summed in the same way as coda does for a box, and drawn.
const config = JSON.parse($("config").textContent);

// A map is a grid of positions, [rows, columns]; of most networks each is a pixel of the view. Where a network has a
// cut, a position stands for several pixels, and its contribution is spread evenly over them.
async function unpacked(packed, record) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = packed.rows * packed.columns;
  const integers = new Int32Array(count); // from the differences that `pack` in maps.py keeps
  for (let n = 0, change = 0; n < count; n++) {
    const folded = (planes[n] << 8) | planes[count + n];
    change = ((folded >> 1) ^ -(folded & 1)) + (n % packed.columns ? change : 0); // from the row above
    integers[n] = change + (n < packed.columns ? 0 : integers[n - packed.columns]);
  }
  const values = Float64Array.from(integers, (integer) => integer * packed.step);
  const peak = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const { width, height, box } = record.view;
  return {
    ...packed, values, width, height, box, source: [record.source.width, record.source.height],
    perPixel: count / (width * height), // what a pixel of the view has of its position, about
    peak: (peak * count) / (width * height),
    across: pixelsOf(packed.columns, width), down: pixelsOf(packed.rows, height),
  };
}

// How many of `length` pixels each of `count` positions stands for.
function pixelsOf(count, length) {
  const pixels = new Float64Array(count);
  for (let n = 0; n < length; n++) pixels[Math.floor((n * count) / length)]++;
  return pixels;
}

// The contribution of pixel (row, column) of the view.
function contribution(map, row, column) {
  const r = Math.floor((row * map.rows) / map.height), c = Math.floor((column * map.columns) / map.width);
  const share = 1 / (map.down[r] * map.across[c]);
  return { value: map.values[r * map.columns + c] * share, off: (map.step / 2) * share };
}

// How far [from, to], in pixels of the view, covers each position: 1 is all of it.
function covered(from, to, length, pixels) {
  const shares = new Float64Array(pixels.length);
  const first = Math.max(0, Math.floor(from)), end = Math.min(length, Math.ceil(to));
  for (let n = first; n < end; n++) {
    const share = Math.min(to, n + 1) - Math.max(from, n);
    const position = Math.floor((n * pixels.length) / length);
    if (share > 0) shares[position] += share / pixels[position];
  }
  return shares;
}

// Sums over a rectangle in pixels of the original; a pixel that its border cuts counts by its covered area.
function sums(map, [x0, y0, x1, y1]) {
  const [bx0, by0, bx1, by1] = map.box;
  const kx = map.width / (bx1 - bx0), ky = map.height / (by1 - by0);
  const across = covered((x0 - bx0) * kx, (x1 - bx0) * kx, map.width, map.across);
  const down = covered((y0 - by0) * ky, (y1 - by0) * ky, map.height, map.down);
  let plus = 0, minus = 0, positions = 0;
  for (let r = 0; r < map.rows; r++) {
    if (!down[r]) continue;
    for (let c = 0; c < map.columns; c++) {
      if (!across[c]) continue;
      const share = down[r] * across[c], value = map.values[r * map.columns + c] * share;
      if (value > 0) plus += value; else minus += value;
      positions += share;
    }
  }
  const wide = Math.min(x1, bx1) - Math.max(x0, bx0), tall = Math.min(y1, by1) - Math.max(y0, by0);
  const area = Math.max(0, wide) * Math.max(0, tall);
  return {
    plus, minus, off: map.off.map((most) => Math.min(most, (positions * map.step) / 2)),
    area: area / ((bx1 - bx0) * (by1 - by0)), outside: 1 - area / ((x1 - x0) * (y1 - y0)),
  };
}

// ---- drawing ------------------------------------------------------------------------------------------------------

// For each of `drawn` pixels that share out `length` pixels of the original: the two positions between whose middles
// it lies, and how far towards the second; null outside the view.
function between(drawn, length, from, to, count) {
  return Array.from({ length: drawn }, (_, n) => {
    const at = ((n + 0.5) * length) / drawn;
    if (at < from || at > to) return null;
    const place = Math.min(count - 1, Math.max(0, ((at - from) * count) / (to - from) - 0.5));
    const first = Math.floor(place);
    return [first, Math.min(count - 1, first + 1), place - first];
  });
}

// The picture in grey, red where the map is positive and blue where it is negative; the same as coda's overlay.
function paint(canvas, image, size, map, scale) {
  const [wide, tall] = size;
  canvas.width = wide;
  canvas.height = tall;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = wide < image.naturalWidth;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, wide, tall);
  const pixels = context.getImageData(0, 0, wide, tall), rgba = pixels.data;
  const [x0, y0, x1, y1] = map.box;
  const columns = between(wide, map.source[0], x0, x1, map.columns);
  const rows = between(tall, map.source[1], y0, y1, map.rows);
  const strength = scale > 0 ? map.perPixel / scale : 0;
  for (let y = 0, n = 0; y < tall; y++) {
    const row = rows[y];
    for (let x = 0; x < wide; x++, n += 4) {
      const column = columns[x];
      const bright = Math.round(0.299 * rgba[n] + 0.587 * rgba[n + 1] + 0.114 * rgba[n + 2]);
      const grey = Math.round(config.faded + (bright * (255 - config.faded)) / 255);
      if (!row || !column) {
        rgba[n] = rgba[n + 1] = rgba[n + 2] = Math.round(config.dimmed * grey);
        continue;
      }
      const above = row[0] * map.columns, below = row[1] * map.columns, [left, right, part] = column;
      const upper = map.values[above + left] * (1 - part) + map.values[above + right] * part;
      const lower = map.values[below + left] * (1 - part) + map.values[below + right] * part;
      const share = Math.max(-1, Math.min(1, (upper * (1 - row[2]) + lower * row[2]) * strength));
      const colour = share > 0 ? config.positive : config.negative, opacity = config.alpha * Math.abs(share);
      for (let c = 0; c < 3; c++) rgba[n + c] = Math.round(grey * (1 - opacity) + colour[c] * opacity);
    }
  }
  context.putImageData(pixels, 0, 0);
}
