// Contributions: what each part of the model adds to the prediction after each token.

import { Contributions, rangeOf } from "./contributions.js";

export class ContributionsView {
  constructor(app) {
    this.chart = new Contributions(({ token, goal }) =>
      app.state.set(goal === undefined ? { query: token } : { goal }),
    );
    this.element = this.chart.element;
  }

  update(model) {
    this.model = model;
    this.range = rangeOf(model.moment, model.values.goal);
  }

  // The reach of the stacks; the stage shares it between panels.
  peaks() {
    return { "contributions up": this.range.up, "contributions down": this.range.down };
  }

  align({ peaks }) {
    const { moment, values } = this.model;
    const range = { up: peaks["contributions up"], down: peaks["contributions down"] };
    this.chart.draw(moment, { token: values.query, goal: values.goal }, range);
  }

  table() {
    const { moment, values } = this.model;
    const { tokens, effects } = moment[values.goal];
    const rows = moment.tokens.flatMap((token, t) =>
      moment.parts.map(({ name, kind }, p) => [
        t,
        token,
        tokens[t],
        name,
        kind,
        effects[p][t],
        moment.lengths[p][t],
      ]),
    );
    return [["position", "token", "effect on", "part", "kind", "effect", "length"], ...rows];
  }
}

// What to do about a run without contributions.
export const WITHOUT_CONTRIBUTIONS =
  "This run did not write its contributions while it trained. Train it with the key " +
  "callbacks: [contributions]. To see those of its current weights, use " +
  "attnkit explain RUN --text TEXT.";
