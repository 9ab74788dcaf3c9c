// Makes the engine panic: randomness is the one thing that it cannot do without.

const CHANNEL = 'sabotage';

/** To be put in front of the worker's script; nothing happens until `failOnce` asks for it. */
export const sabotage = `(${sabotaged})(${JSON.stringify(CHANNEL)});\n`;

/** Makes randomness fail the next time it is drawn; resolves when the worker has heard that. */
export async function failOnce(page) {
  await tell(page, 'fail');
}

/** How often randomness was drawn since the worker started. */
export function drawn(page) {
  return tell(page, 'count');
}

function tell(page, what) {
  return page.evaluate(([name, word]) => new Promise((resolve) => {
    const channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => {
      channel.close();
      resolve(data);
    };
    channel.postMessage(word);
  }), [CHANNEL, what]);
}

function sabotaged(name) {
  const random = crypto.getRandomValues.bind(crypto);
  const channel = new BroadcastChannel(name);
  let failing = false;
  let count = 0;
  channel.onmessage = ({ data }) => {
    if (data === 'fail') failing = true;
    channel.postMessage(count);
  };
  crypto.getRandomValues = (bytes) => {
    count += 1;
    if (!failing) return random(bytes);
    failing = false;
    throw new Error('no randomness');
  };
}
