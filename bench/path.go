package main

// connectionPath says how the client under test reads and writes frames.
const connectionPath = "plain nhooyr.io/websocket"
