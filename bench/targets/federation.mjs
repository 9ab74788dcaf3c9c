// Events of other servers: as `cargo bench` has the engine take them in, on a disk and without a
// network, and over HTTPS between two servers.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { root, run } from '../../scripts/lib/run.mjs';
import { federated } from '../federated.mjs';
import { note } from '../profile.mjs';
import { directoryOnDisk } from '../disk.mjs';
import { median } from '../work.mjs';
import { Serve } from './serve.mjs';

const execute = promisify(execFile);

/** The parts of crate/homeserver/benches/receive.rs. */
const parts = ['sent', 'joined', 'arrival', 'large', 'beside', 'memory'];
const times = 3;

export class Federation {
  name = 'federation, natively';
  large = true;

  async build() {
    await new Serve().build();
    await run('cargo', ['bench', '--quiet', '--workspace', '--bench', 'receive', '--no-run']);
  }

  async start() {
    const { stdout } = await execute('cargo', ['bench', '--workspace', '--bench', 'receive', '--no-run', '--message-format', 'json'], { cwd: root, maxBuffer: 1e9 });
    const built = stdout.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    this.program = built.find(({ target, executable }) => executable && target.name === 'receive').executable;
  }

  /** Medians of several runs. */
  async measure(say) {
    const found = new Map();
    const from = {};
    const wanted = this.large ? parts : parts.filter((part) => part !== 'large' && part !== 'memory');
    for (let n = 0; n < times; n++) {
      for (const part of wanted) {
        say(`${part}, ${n + 1} of ${times}`);
        const { stdout } = await execute(this.program, ['--bench', part], { maxBuffer: 1e8 });
        for (const [, figure, value] of stdout.matchAll(/^(\w+) ([\d.]+)$/gm)) {
          from[figure] = part;
          found.set(figure, [...(found.get(figure) ?? []), Number(value)]);
        }
      }
    }
    const figures = Object.fromEntries([...found].map(([figure, values]) => [figure, median(values)]));
    return { ...figures, ...(await federated('ephapse', (what) => say(`over HTTPS: ${what}`))), from };
  }

  /** Does one part of the work; resolves to how often each function was at work. */
  async profile(part) {
    const recording = `${await directoryOnDisk('perf')}/recording`;
    await execute('perf', ['record', '--quiet', '-F', '1999', '-o', recording, '--', this.program, '--bench', part], { maxBuffer: 1e8 });
    const { stdout } = await execute('perf', ['script', '-i', recording, '-F', 'ip,sym'], { maxBuffer: 1e9 });
    const noted = new Map();
    for (const [, name] of stdout.matchAll(/^ *[0-9a-f]+ (.+)$/gm)) note(noted, name, 1);
    return noted;
  }

  stop() {
    return undefined;
  }
}
