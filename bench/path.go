package main

// connectionPath is how the client under test reads and writes frames unless a
// candidate sets PlainFrames; Stats confirms it ("plain path").
const connectionPath = "the frame tap (own frames; nhooyr.io/websocket dials)"
