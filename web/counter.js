// What the page calls: models, the worker that runs them, and one picture after the other.

const IDLE_S = 20; // after which the worker's memory, which only ever grows, is given back
const GPU_PATIENCE_S = 30; // for WebGPU to start and to count the check picture, once it is fetched
const MOST_THREADS = 4; // more gain little with networks this small

/** A problem in plain words: `key` is that of a text, `values` are what it names. */
export class CountingError extends Error {
  constructor({ key, values = {} }) {
    super(key);
    Object.assign(this, { key, values });
  }
}

export class Counter {
  #worker = null;
  #opened = null; // the model and engine that the worker has
  #waiting = new Map(); // answers that are not there yet, by the question's number
  #number = 0;
  #line = Promise.resolve(); // one question at a time
  #idle = null;
  #gpu = null; // whether WebGPU counts right here; null: not tried

  /**
   * @param {object} options `engine`: auto, wasm or webgpu (even one without a GPU); `threads` of
   *   WASM; `idleSeconds` until the worker ends; `patience`, seconds until WebGPU is given up
   */
  constructor({ engine = 'auto', threads = 0, idleSeconds = IDLE_S, patience = GPU_PATIENCE_S } = {}) {
    const most = Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
    this.threads = self.crossOriginIsolated ? threads || most : 1;
    this.idleSeconds = idleSeconds;
    this.patience = patience;
    if (engine !== 'auto') this.#gpu = engine === 'webgpu';
    this.engine = 'wasm';
  }

  /** Returns models.json, once it is read. */
  async catalogue() {
    try {
      const response = await fetch('models.json');
      if (!response.ok) throw new Error(response.status);
      return (this.found = await response.json());
    } catch {
      throw new CountingError({ key: 'catalogueMissing' });
    }
  }

  /** Returns a model's reading of a Blob or an ImageBitmap, which is used up. */
  count(model, image) {
    return this.#inTurn(async () => {
      await this.#open(model);
      const transferred = image instanceof ImageBitmap ? [image] : [];
      return this.#ask({ task: 'count', image, maxSide: model.max_side }, transferred);
    });
  }

  /** Returns the milliseconds that a model takes for a picture: the median of `rounds`. */
  async measure(model, picture, rounds = 5) {
    const times = [];
    for (let round = 0; round <= rounds; round++) times.push((await this.count(model, picture)).ms);
    return times.slice(1).sort((a, b) => a - b)[Math.floor(rounds / 2)]; // the first warms up
  }

  /** Ends the worker; the next count starts another one. `key` is that of the reason's text. */
  close(key = 'stopped') {
    clearTimeout(this.#idle);
    this.#worker?.terminate();
    this.#worker = this.#opened = null;
    for (const { reject } of this.#waiting.values()) reject(new CountingError({ key }));
    this.#waiting.clear();
  }

  #inTurn(action) {
    const turn = this.#line.then(async () => {
      clearTimeout(this.#idle);
      try {
        return await action();
      } catch (error) {
        if (['tooLarge', 'unexpected', 'notFinite'].includes(error.key)) this.close();
        throw error;
      } finally {
        this.#idle = setTimeout(() => this.close(), 1000 * this.idleSeconds);
      }
    });
    this.#line = turn.catch(() => {});
    return turn;
  }

  /** Makes the worker have this model: with WebGPU where that works, with WASM otherwise. */
  async #open(model) {
    this.#gpu ??= await hasGpu();
    const engine = this.#gpu && model.precision === 'float32' ? 'webgpu' : 'wasm';
    const wanted = `${engine} ${model.file}`;
    if (this.#worker && this.#opened === wanted) return;
    if (this.#opened?.split(' ')[0] !== engine) this.close(); // a worker has one runtime
    this.#worker ??= this.#start();
    const { threads, found: { runtime, check } } = this;
    const giveUp = () => this.close('unexpected');
    let late;
    try {
      await this.#ask({ task: 'fetch', model, runtime, engine, threads });
      if (engine === 'webgpu') late = setTimeout(giveUp, 1000 * this.patience);
      await this.#ask({ task: 'open', model, engine, check: check.file });
    } catch (error) {
      this.close();
      if (engine !== 'webgpu' || ['modelMissing', 'stopped'].includes(error.key)) throw error;
      this.#gpu = false;
      return this.#open(model);
    } finally {
      clearTimeout(late);
    }
    this.#opened = wanted;
    this.engine = engine;
  }

  #start() {
    const worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
    worker.onmessage = ({ data: { id, result, problem } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (problem) reject(new CountingError(problem));
      else resolve(result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.#waiting.values()) {
        reject(new CountingError({ key: 'unexpected', values: { reason: event.message ?? '' } }));
      }
      this.#waiting.clear();
      this.close();
    };
    return worker;
  }

  #ask(question, transferred = []) {
    const id = ++this.#number;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...question }, transferred);
    });
  }
}

async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // One in software is slower than WASM; older browsers have no `info`.
  return Boolean(adapter && !(adapter.info ?? adapter).isFallbackAdapter);
}
