// usage: node graphqlws.mjs PORT [RECORD]   a graphql-transport-ws server of the libraries graphql-ws, ws and graphql
// on 127.0.0.1. It prints "listening PORT". With RECORD it writes the messages of each connection to that file.
// The mutation drop forgets the oldest ticks; wait ends when so many streams wait for a tick, or after so many more
// pings. A line "close CODE" on stdin closes every connection.
import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { WebSocketServer } from 'ws';
import { buildSchema, GraphQLError } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';

const schema = buildSchema(`
  type Tick { seq: Int!, cursor: String!, px: Float!, big: ID!, note: String }
  type Query { last: Tick }
  type Mutation { publish(px: Float!): Tick!, slow(px: Float!): Tick!, partly(px: Float!): Tick, fail: Tick, drop(n: Int!): Int, wait(streams: Int, pings: Int): Int }
  type Subscription { ticks(after: Int): Tick!, events(after: String): Tick!, from(at: String): Tick!, boom: Int!, secret: Int!, count(to: Int!): Int! }
`);

const ticks = [];
let made = 0, pings = 0, waiting = [], watchers = [];
const changed = () => { for (const look of watchers.splice(0)) look(); };
async function until(done) { while (!done()) await new Promise((look) => watchers.push(look)); }
function add(px) {
  const tick = { seq: ++made, cursor: 'c' + made, px, big: '9007199254740993' };
  ticks.push(tick);
  for (const wake of waiting.splice(0)) wake();
  return tick;
}
async function* after(seq) {
  try {
    for (;;) {
      const next = ticks.find((t) => t.seq > seq);
      if (!next) { await new Promise((wake) => { waiting.push(wake); changed(); }); continue; }
      seq = next.seq;
      yield next;
    }
  } finally { /* the client has completed it */ }
}
async function* named(name, source) { for await (const v of source) yield { [name]: v }; }
const oldest = () => (ticks.length ? ticks[0].seq : made + 1);
function place(cursor) {
  const seq = Number(String(cursor).slice(1));
  if (!(seq + 1 >= oldest())) throw new GraphQLError('the cursor is too old', { extensions: { code: 'CURSOR_EXPIRED' } });
  return seq;
}
const fields = schema.getSubscriptionType().getFields();
fields.ticks.subscribe = (_, a) => named('ticks', after(a.after ?? made));
fields.events.subscribe = (_, a) => named('events', after(a.after == null ? made : place(a.after)));
fields.from.subscribe = (_, a) => named('from', after(a.at == null ? made : place(a.at) - 1));
fields.boom.subscribe = async function* () { yield { boom: 1 }; throw new GraphQLError('kaboom'); };
fields.secret.subscribe = () => { throw new GraphQLError('not for you', { extensions: { code: 'FORBIDDEN' } }); };
fields.count.subscribe = async function* (_, a) { for (let i = 1; i <= a.to; i++) yield { count: i }; };
const mutations = schema.getMutationType().getFields();
mutations.publish.resolve = (_, a) => add(a.px);
mutations.slow.resolve = async (_, a) => { const t = add(a.px); await new Promise((done) => setTimeout(done, 60_000).unref()); return t; };
mutations.drop.resolve = (_, a) => ticks.splice(0, a.n).length;
mutations.wait.resolve = async (_, a) => {
  const from = pings;
  await until(() => waiting.length >= (a.streams ?? 0) && pings >= from + (a.pings ?? 0));
};
mutations.fail.resolve = () => { throw new GraphQLError('market closed', { extensions: { code: 'CLOSED' } }); };
mutations.partly.resolve = (_, a) => ({ ...add(a.px), note() { throw new GraphQLError('no note'); } });
schema.getQueryType().getFields().last.resolve = () => ticks.at(-1);

const wss = new WebSocketServer({ port: Number(process.argv[2] ?? 0), host: '127.0.0.1', path: '/graphql' });
if (process.argv[3]) {
  let conns = 0;
  const note = (line) => appendFileSync(process.argv[3], line + '\n');
  wss.on('connection', (socket) => {
    const n = ++conns, send = socket.send.bind(socket);
    note(`# connection ${n}`);
    socket.on('message', (data) => note('> ' + data));
    socket.send = (data, ...rest) => { note('< ' + data); send(data, ...rest); };
    socket.on('close', (code, reason) => note(`# close ${code} ${reason}`));
  });
}
useServer({
  schema,
  connectionInitWaitTimeout: 1000,
  onPing: () => { pings++; changed(); },
  onConnect: (ctx) => {
    const token = ctx.connectionParams?.token;
    return token === 'bad' || token === undefined ? false : { session: 'ok' };
  },
}, wss, 500);
wss.on('listening', () => console.log('listening ' + wss.address().port));
createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, n] = line.split(' ');
  if (word === 'close') for (const c of wss.clients) c.close(Number(n), 'asked to');
  console.log('did ' + line);
});
