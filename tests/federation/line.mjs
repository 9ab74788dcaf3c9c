// The way of other servers to one: a port of this process, from which bytes go on to the server.
// Cut, it is a network that is down while the server itself is well.

import net from 'node:net';

export class Line {
  #cut = false;
  #sockets = new Set();

  /** A line to a port of 127.0.0.1. */
  static async open(to) {
    const line = new Line();
    line.to = to;
    line.server = net.createServer((from) => line.#connect(from));
    await new Promise((resolve, reject) => line.server.once('error', reject).listen(0, '127.0.0.1', resolve));
    line.port = line.server.address().port;
    return line;
  }

  #connect(from) {
    if (this.#cut) {
      from.destroy();
      return;
    }
    const to = net.connect(this.to, '127.0.0.1');
    for (const [socket, other] of [[from, to], [to, from]]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.pipe(other);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }

  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#cut = false;
  }

  close() {
    this.cut();
    this.server.close();
  }
}
