// The table of models: each with its size, its errors and its speed on this machine.
import { $, explain, make, number, t } from './page.js';

export class Models {
  #catalogue;
  #counter;
  #speeds = new Map(); // by the model's file, functions that return them in words
  #chosen;
  #changed;

  /** `changed(model)` is called when another one is chosen. */
  constructor(catalogue, counter, changed) {
    this.#catalogue = catalogue;
    this.#counter = counter;
    this.#changed = changed;
    this.#chosen = catalogue.models[0];
    $('measure').onclick = () => this.#measureAll();
  }

  get chosen() {
    return this.#chosen;
  }

  show() {
    const { models, check, images } = this.#catalogue;
    const [height, width] = check.size;
    $('here').textContent = t('here', { width, height });
    $('models-help').textContent = t('modelsHelp', images);
    $('models-help').hidden = !models.some(({ validation, test }) => validation ?? test);
    $('licence').hidden = !models.some(({ licence }) => licence); // models of one's own have none
    $('measure').textContent = t($('measure').disabled ? 'measuring' : 'measure');
    $('choices').replaceChildren(...models.map((model, i) => this.#row(model, i)));
  }

  #row(model, i) {
    const radio = make('input', {
      type: 'radio',
      name: 'model',
      id: `model-${i}`,
      checked: model === this.#chosen,
      onchange: () => this.#choose(model),
    });
    const label = make('label', { htmlFor: radio.id }, ` ${describe(model)}`);
    const row = make(
      'tr',
      model === this.#chosen ? { class: 'chosen' } : {},
      make('th', { scope: 'row' }, radio, label),
      numeric(t('megabytes', { size: number(model.bytes / 1e6, 1) })),
      numeric(error(model.validation)),
      numeric(error(model.test)),
      numeric(this.#speeds.get(model.file)?.() ?? t('notMeasured')),
    );
    return row;
  }

  #choose(model) {
    this.#chosen = model;
    this.show();
    $('choices').querySelector(':checked').focus();
    this.#changed(model);
  }

  async #measureAll() {
    $('measure').disabled = true;
    this.show();
    const { file } = this.#catalogue.check;
    for (const model of this.#catalogue.models) {
      try {
        const ms = await this.#counter.measure(model, await (await fetch(file)).blob());
        this.#speeds.set(model.file, () => t('milliseconds', { ms: number(ms) }));
      } catch (problem) {
        this.#speeds.set(model.file, () => explain(problem));
      }
      this.show();
    }
    $('measure').disabled = false;
    this.show();
  }
}

/** Returns a model's name and precision. */
export function describe(model) {
  return `${model.label}, ${t(model.precision)}`;
}

const numeric = (text) => make('td', { class: 'number', textContent: text });
const error = (measured) => (measured ? number(measured.mae, 1) : t('notMeasured'));
