package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// The cheapest WebSocket server that is sufficient: its cost is not measured, but with
// a slow one the client would wait and wake for each message.

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// peer is the server's end of an upgraded connection. One goroutine reads, any may
// write.
type peer struct {
	net.Conn
	br *bufio.Reader
	mu sync.Mutex
}

// upgrade answers the handshake (RFC 6455, section 4.2.2) with the first
// subprotocol that was offered.
func upgrade(w http.ResponseWriter, r *http.Request) (*peer, error) {
	k := r.Header.Get("Sec-WebSocket-Key")
	h, ok := w.(http.Hijacker)
	if k == "" || !ok {
		http.Error(w, "a WebSocket upgrade is wanted", http.StatusBadRequest)
		return nil, errors.New("no upgrade")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(k + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if first, _, _ := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), ","); first != "" {
		answer += "Sec-WebSocket-Protocol: " + first + "\r\n"
	}
	if _, err := conn.Write([]byte(answer + "\r\n")); err != nil {
		conn.Close()
		return nil, err
	}
	return &peer{Conn: conn, br: rw.Reader}, nil
}

// appendHeader appends the header of an unmasked final frame of n bytes.
func appendHeader(b []byte, op byte, n int) []byte {
	b = append(b, 0x80|op)
	switch {
	case n < 126:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
}

func (p *peer) send(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.Write(b)
	return err
}

func (p *peer) message(op byte, data []byte) error {
	return p.send(append(appendHeader(nil, op, len(data)), data...))
}

// next returns the data of the next message. Pings are answered.
func (p *peer) next() ([]byte, error) {
	var data []byte
	for {
		fin, op, payload, err := p.frame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opPing:
			if err := p.message(opPong, payload); err != nil {
				return nil, err
			}
		case opPong:
		case opClose:
			p.message(opClose, payload)
			return nil, io.EOF
		default:
			data = append(data, payload...)
			if fin {
				return data, nil
			}
		}
	}
}

func (p *peer) frame() (fin bool, op byte, payload []byte, err error) {
	var h [8]byte
	if _, err = io.ReadFull(p.br, h[:2]); err != nil {
		return
	}
	fin, op = h[0]&0x80 != 0, h[0]&0xf
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		if _, err = io.ReadFull(p.br, h[:2]); err != nil {
			return
		}
		n = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		if _, err = io.ReadFull(p.br, h[:8]); err != nil {
			return
		}
		n = binary.BigEndian.Uint64(h[:])
	}
	if n > 16<<20 {
		return false, 0, nil, errors.New("frame too long")
	}
	var mask [4]byte
	if _, err = io.ReadFull(p.br, mask[:]); err != nil {
		return
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(p.br, payload); err != nil {
		return
	}
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return fin, op, payload, nil
}
