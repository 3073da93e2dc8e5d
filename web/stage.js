// Shows a picture with its density, the scale and the densest square.
import { $, draw, number, t } from './page.js';
import { SQUARE, STRIDE, densestSquare } from './pixels.js';

const RAMP = ['#3b0f70', '#8c2981', '#de4968', '#fe9f6d', '#fcfdbf']; // as in style.css
const LEAST_DENSEST = 0.01; // heads per cell, so that noise in empty places is not coloured
const FADING = 0.75; // opacity grows with the density to this power
const LEAST_SQUARE = 0.5; // people, below which no square is shown
const TALLEST = 0.72; // of the window

const colours = RAMP.map((code) => [1, 3, 5].map((at) => parseInt(code.slice(at, at + 2), 16)));
let turn = 0; // pictures are decoded in the background: an older one must not come last

/** Shows a reading's picture and density. */
export async function showPicture(reading) {
  const mine = ++turn;
  const [high, wide] = reading.size;
  const frame = $('frame');
  frame.style.aspectRatio = `${wide} / ${high}`;
  frame.style.maxWidth = `${(100 * TALLEST * wide) / high}vh`;
  const bitmap = await createImageBitmap(reading.preview);
  if (mine === turn) {
    const { width, height } = bitmap;
    for (const canvas of [$('picture'), $('density')]) Object.assign(canvas, { width, height });
    $('picture').getContext('2d').drawImage(bitmap, 0, 0);
    drawDensity(reading, width, height);
  }
  bitmap.close();
}

function drawDensity({ density, counted }, width, height) {
  const [rows, columns] = counted.map((side) => Math.ceil(side / STRIDE));
  const most = densest(density);
  const cells = new ImageData(columns, rows);
  for (let i = 0; i < density.length; i++) {
    const share = Math.min(Math.max(density[i] / most, 0), 1);
    cells.data.set([...colour(share), 255 * share ** FADING], 4 * i);
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext('2d').putImageData(cells, 0, 0);
  const pen = $('density').getContext('2d');
  pen.imageSmoothingQuality = 'high';
  const [high, wide] = [rows / counted[0], columns / counted[1]].map((cells) => cells * STRIDE);
  pen.drawImage(small, 0, 0, width * wide, height * high); // the last cells may be cut
}

function densest(density) {
  return density.reduce((most, cell) => Math.max(most, cell), LEAST_DENSEST);
}

function colour(share) {
  const at = share * (colours.length - 1);
  const below = Math.min(Math.floor(at), colours.length - 2);
  return colours[below].map((value, i) => value + (at - below) * (colours[below + 1][i] - value));
}

/** Says in words and shows where most people are; returns the square in parts of the sides. */
export function describeDensity({ density, counted, size }) {
  const shrunk = (counted[0] * counted[1]) / (size[0] * size[1]);
  const most = densest(density) * (SQUARE / STRIDE) ** 2 * shrunk; // in the picture's own pixels
  $('most').textContent = number(most, most >= 20 ? 0 : 1);
  const square = densestSquare(density, counted);
  if (!(square.count >= LEAST_SQUARE)) {
    $('densest').textContent = t('densestNone');
    return null;
  }
  const [high, wide] = counted;
  const [down, across] = [size[0] / high, size[1] / wide];
  $('densest').textContent = t('densest', {
    count: number(square.count, 1),
    width: number(square.width * across),
    height: number(square.height * down),
    x: number(square.x * across),
    y: number(square.y * down),
  });
  return {
    x: square.x / wide,
    y: square.y / high,
    width: square.width / wide,
    height: square.height / high,
  };
}

/** Returns the square as a shape for the picture. */
export function drawSquare(square) {
  return ['marks-shadow', 'marks-square'].map((kind) => draw('rect', { class: kind, ...square }));
}
