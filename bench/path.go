package main

// connectionPath says how the client under test reads and writes frames where
// a candidate does not name PlainFrames; Stats confirms it ("plain path").
const connectionPath = "the frame tap (own frames; nhooyr.io/websocket dials)"
