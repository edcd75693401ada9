package jetstream

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// Headers of the messages in a stream.
const (
	headerID     = "Nats-Msg-Id"   // hash of the principal, ":", message id
	headerEntry  = "Limpet-Entry"  // what an entry has besides topic, id and payload
	headerNonce  = "Limpet-Nonce"  // of the Commit
	headerRecord = "Limpet-Record" // of a record: the sequence of the one before it, its lifetime in ms, "kept" or "removed"

	headerExpected = "Nats-Expected-Last-Subject-Sequence"
	headerBatch    = "Nats-Batch-Id"
	headerBatchSeq = "Nats-Batch-Sequence"
	headerCommit   = "Nats-Batch-Commit"
)

// maxSession bounds the id of a session: with all of it escaped, a subject fits into a line of the protocol.
const maxSession = 1000

// The subjects of a log.
func messages(log string) string         { return log + ".m." }
func session(log, id string) string      { return log + ".s." + escape(id) }
func refusal(log string, k idKey) string { return log + ".r." + k.text() }
func check(log string) string            { return log + ".c" }

// escape returns one token of a subject for any text.
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 {
		return "%"
	}
	return b.String()
}

// unescape is the inverse of escape.
func unescape(token string) (string, error) {
	if token == "%" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		if token[i] != '%' {
			b.WriteByte(token[i])
			continue
		}
		if i+3 > len(token) {
			return "", errDamaged
		}
		c, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
		if err != nil {
			return "", errDamaged
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}

// subjectOf returns the subject of a topic: each level is a token.
func subjectOf(log, topic string) string {
	levels := strings.Split(topic, "/")
	for i := range levels {
		levels[i] = escape(levels[i])
	}
	return messages(log) + strings.Join(levels, ".")
}

// topicOf is the inverse of subjectOf.
func topicOf(log, subject string) (string, error) {
	levels := strings.Split(strings.TrimPrefix(subject, messages(log)), ".")
	for i := range levels {
		var err error
		if levels[i], err = unescape(levels[i]); err != nil {
			return "", err
		}
	}
	return strings.Join(levels, "/"), nil
}

var errDamaged = errors.New("gateway/jetstream: a message in the stream was not written by a store; keep others from publishing to its subjects")

// idKey is an id with the principal for whom it is known.
type idKey struct {
	who [8]byte // hash
	id  wire.ID
}

func keyOf(who string, id wire.ID) idKey {
	sum := sha256.Sum256([]byte(who))
	return idKey{who: [8]byte(sum[:8]), id: id}
}

// text returns what JetStream knows the id by.
func (k idKey) text() string { return hex.EncodeToString(k.who[:]) + ":" + hex.EncodeToString(k.id[:]) }

func parseKey(text string) (k idKey, err error) {
	who, id, _ := strings.Cut(text, ":")
	if len(who) != 2*len(k.who) || len(id) != 2*len(k.id) {
		return k, errDamaged
	}
	if _, err = hex.Decode(k.who[:], []byte(who)); err == nil {
		_, err = hex.Decode(k.id[:], []byte(id))
	}
	if err != nil {
		return k, errDamaged
	}
	return k, nil
}

// encodeEntry returns the message of an entry.
func encodeEntry(log, who string, e *server.Entry) *nats.Msg {
	b := binary.AppendUvarint(nil, e.Hash)
	b = binary.AppendVarint(b, int64(e.TTL))
	b = appendText(b, e.Type)
	b = binary.AppendUvarint(b, uint64(len(e.Header)))
	for k, v := range e.Header {
		b = appendText(appendText(b, k), v)
	}
	m := nats.NewMsg(subjectOf(log, e.Topic))
	m.Header.Set(headerID, keyOf(who, e.ID).text())
	m.Header.Set(headerEntry, base64.RawStdEncoding.EncodeToString(b))
	m.Data = e.Payload
	return m
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// stored is a message as the stream has it.
type stored struct {
	subject string
	seq     uint64
	at      time.Time
	header  nats.Header
	data    []byte
}

// entry returns the entry that m is. One of a plain publisher has the key of no principal.
func (m *stored) entry(o *Options) (*server.Entry, idKey, error) {
	if m.plain(o.Log) {
		e, err := m.plainEntry(o.Log, o.MaxPayload)
		if err != nil {
			return nil, idKey{}, err
		}
		return e, idKey{id: e.ID}, nil
	}
	k, err := parseKey(m.header.Get(headerID))
	if err != nil {
		return nil, k, err
	}
	topic, err := topicOf(o.Log, m.subject)
	if err != nil {
		return nil, k, err
	}
	b, err := base64.RawStdEncoding.DecodeString(m.header.Get(headerEntry))
	if err != nil {
		return nil, k, errDamaged
	}
	r := reader{b: b}
	e := &server.Entry{Offset: m.seq, Time: m.at, ID: k.id, Topic: topic, Payload: m.data}
	e.Hash = r.number()
	ttl, n := binary.Varint(r.b)
	r.skip(n)
	e.TTL = time.Duration(ttl)
	e.Type = r.text()
	if n := r.number(); n > 0 && n <= uint64(len(r.b)) {
		e.Header = make(map[string]string, n)
		for range n {
			key := r.text()
			e.Header[key] = r.text()
		}
	}
	if r.bad {
		return nil, k, errDamaged
	}
	return e, k, nil
}

// reader reads what appendText and its like have written.
type reader struct {
	b   []byte
	bad bool
}

// skip goes on after n bytes; n is what package binary has returned.
func (r *reader) skip(n int) {
	if n <= 0 {
		r.bad, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	text := string(r.b[:n])
	r.b = r.b[n:]
	return text
}

// encodeRefusal returns the message of a refusal.
func encodeRefusal(log, who string, f *server.Refusal) *nats.Msg {
	k := keyOf(who, f.ID)
	m := nats.NewMsg(refusal(log, k))
	m.Header.Set(headerID, k.text())
	m.Data = binary.AppendUvarint(binary.AppendUvarint(nil, f.Code), f.Hash)
	return m
}

// outcome returns what is known of the id of m, which is an entry or a refusal. e is nil for a refusal.
func (m *stored) outcome(o *Options) (k idKey, known server.KnownID, e *server.Entry, err error) {
	if strings.HasPrefix(m.subject, messages(o.Log)) {
		if e, k, err = m.entry(o); err == nil {
			known = server.KnownID{ID: e.ID, Hash: e.Hash, Offset: e.Offset}
		}
		return k, known, e, err
	}
	k, err = parseKey(m.header.Get(headerID))
	r := reader{b: m.data}
	known = server.KnownID{ID: k.id, Code: r.number(), Hash: r.number()}
	if err == nil && r.bad {
		err = errDamaged
	}
	return k, known, nil, err
}

// record is the record of a session as the stream has it.
type record struct {
	seq    uint64 // 0: there is none
	nonce  string
	before uint64 // sequence of the one that it replaced; 0: there was none
	gone   bool   // removed, or its time is over
	data   []byte
}

// encodeRecord returns the message for the record of c, which replaces the one at sequence before.
func encodeRecord(log, nonce string, before uint64, c *server.Change) *nats.Msg {
	state := "kept"
	if c.Record == nil {
		state = "removed"
	}
	m := nats.NewMsg(session(log, c.Session))
	m.Header.Set(headerNonce, nonce)
	m.Header.Set(headerRecord, fmt.Sprintf("%d %d %s", before, c.TTL.Milliseconds(), state))
	m.Header.Set(headerExpected, strconv.FormatUint(before, 10))
	m.Data = append([]byte(nil), c.Record...)
	return m
}

func (m *stored) record(now time.Time) (*record, error) {
	r := &record{seq: m.seq, nonce: m.header.Get(headerNonce), data: m.data}
	var ttl int64
	var state string
	if _, err := fmt.Sscanf(m.header.Get(headerRecord), "%d %d %s", &r.before, &ttl, &state); err != nil {
		return nil, errDamaged
	}
	r.gone = state == "removed" || now.Sub(m.at) > time.Duration(ttl)*time.Millisecond
	return r, nil
}
