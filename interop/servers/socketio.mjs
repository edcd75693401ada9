// A Socket.IO server for interop: prints "listening PORT". Argument "recovery" turns
// connection state recovery on. Lines on the standard input are commands.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Server } from "socket.io";

let seq = 0, busy = false;
const stored = [];
const log = (...parts) => console.log(parts.join(" "));

let io, port = 0;

// start listens, on the same port as before, and knows no session.
function start() {
  const http = createServer();
  io = new Server(http, {
    pingInterval: 400,
    pingTimeout: 400,
    maxHttpBufferSize: 20000,
    ...(process.argv.includes("recovery") && { connectionStateRecovery: { maxDisconnectionDuration: 60000 } }),
    allowRequest: (req, done) => done(null, req.headers["x-key"] !== "bad"),
  });
  for (const name of ["/", "/admin"]) serve(name, io.of(name));
  http.listen(port, "127.0.0.1", () => {
    if (port === 0) log("listening", (port = http.address().port));
  });
}

function serve(name, nsp) {
  nsp.use((socket, next) => {
    const { token } = socket.handshake.auth;
    if (token === "busy" && (busy = !busy)) { // every other time
      const err = new Error("busy");
      err.data = { wait: 700 };
      return next(err);
    }
    if (token !== "bad") return next();
    const err = new Error("unauthorized");
    err.data = { code: 401 };
    next(err);
  });
  nsp.on("connection", (socket) => {
    log("connected", name, socket.id, socket.recovered ? "recovered" : "new", JSON.stringify(socket.handshake.auth.user ?? null));
    socket.emit("hello", { room: [...socket.rooms].length });
    socket.on("join", (room, done) => {
      if (room === "secret") return done({ error: "forbidden" });
      socket.join(room);
      done({ ok: true, room });
    });
    socket.on("leave", (room) => socket.leave(room));
    socket.on("rooms", (done) => done([...socket.rooms].filter((room) => room !== socket.id)));
    socket.on("echo", (...args) => { const done = args.pop(); done(...args); });
    socket.on("store", (n, done) => { stored.push(n); done(); });
    socket.on("stored", (done) => done(stored));
    socket.on("bytes", (data, done) => { socket.emit("bytes", data); done(data); });
    socket.on("nested", (done) => {
      socket.emit("nested", { name: "two", parts: [Buffer.from([1, 2]), { deep: Buffer.from([255]) }] }, 9007199254740993n.toString());
      done();
    });
    socket.on("many", (n, done) => { for (let i = 0; i < n; i++) socket.emit("price", { seq: ++seq }); done(); });
    socket.on("ask", (done) => {
      socket.timeout(3000).emit("question", { q: 1 }, (err) => socket.emit("answered", err ? "no" : "yes"));
      done();
    });
    socket.on("volatile", (done) => { socket.volatile.emit("flash", "light"); done(); });
    socket.on("kick", () => socket.disconnect(process.argv.includes("hard")));
    socket.on("disconnect", (reason) => log("gone", reason));
  });
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const [word, arg] = line.split(" ");
  if (word === "price") for (let i = 0; i < Number(arg); i++) io.emit("price", { seq: ++seq });
  if (word === "room") io.to(arg).emit(arg, { seq: ++seq });
  if (word === "restart") { seq = 0; io.close(start); }
});

start();
