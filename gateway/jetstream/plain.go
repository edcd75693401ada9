package jetstream

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Headers that a plain publisher may set.
const (
	headerType = "Content-Type" // Entry.Type
	headerTTL  = "Limpet-TTL"   // Entry.TTL, such as 10s
)

// Reserved headers begin with these. They are no headers of the entry.
var reserved = []string{"Nats-", "Limpet-"}

// plainToken is the level of a subject that no topic has: escape never returns it.
const plainToken = "@in"

// plainMessages returns how the subjects of plain publishers begin.
func plainMessages(log string) string { return messages(log) + plainToken + "." }

// plain reports whether m is of a plain publisher: a program that speaks NATS and is no store.
func (m *stored) plain(log string) bool { return strings.HasPrefix(m.subject, plainMessages(log)) }

// errRefused means that a message of a plain publisher cannot be an entry.
var errRefused = errors.New("a message of a NATS publisher was left out")

// plainEntry returns the entry that m is. It depends on nothing but m and maxPayload, so that all stores have the same.
func (m *stored) plainEntry(log string, maxPayload int) (*server.Entry, error) {
	refused := func(format string, a ...any) (*server.Entry, error) {
		return nil, fmt.Errorf("%w: sequence %d: %w", errRefused, m.seq, fmt.Errorf(format, a...))
	}
	levels := strings.Split(strings.TrimPrefix(m.subject, plainMessages(log)), ".")
	for i := range levels {
		var err error
		if levels[i], err = unescape(levels[i]); err != nil {
			return refused("the subject has a %% that two hexadecimal digits must follow")
		}
	}
	topic := strings.Join(levels, "/")
	if err := native.CheckTopic(wire.UsePublish, topic); err != nil {
		return refused("%w", err)
	}
	if len(m.data) > maxPayload {
		return refused("%d bytes; publish at most Options.MaxPayload, %d", len(m.data), maxPayload)
	}
	e := &server.Entry{Offset: m.seq, Time: m.at, Topic: topic, Payload: m.data, Type: joined(m.header[headerType])}
	size, fit := len(e.Type), utf8.ValidString(e.Type)
	for k, values := range m.header {
		if k == headerType || slices.ContainsFunc(reserved, func(begin string) bool { return strings.HasPrefix(k, begin) }) {
			continue
		}
		if e.Header == nil {
			e.Header = map[string]string{}
		}
		v := joined(values)
		e.Header[k] = v
		size += len(k) + len(v)
		fit = fit && utf8.ValidString(k) && utf8.ValidString(v)
	}
	switch {
	case !fit:
		return refused("a header is not UTF-8")
	case len(e.Header) > native.MaxHeaders || size > native.MaxHeaderSize:
		return refused("%d headers with %d bytes; use at most %d with %d", len(e.Header), size, native.MaxHeaders, native.MaxHeaderSize)
	}
	if text := m.header.Get(headerTTL); text != "" {
		var err error
		if e.TTL, err = time.ParseDuration(text); err != nil || e.TTL < 0 {
			return refused("the header %s is not a duration such as 10s", headerTTL)
		}
	}
	e.ID = m.plainID()
	return e, nil
}

// joined returns the values of a header as one, as HTTP does.
func joined(values []string) string { return strings.Join(values, ", ") }

// plainID returns the id of m: its Nats-Msg-Id if that is a UUID, else a hash of it. Without one it is a hash of the place, the time, the
// subject and the payload: after a rewind another message in the same place must have another id, because ids are tags.
func (m *stored) plainID() (id wire.ID) {
	text := m.header.Get(headerID)
	if len(text) == 36 {
		if parsed, err := uuid.Parse(text); err == nil && parsed != uuid.Nil {
			return wire.ID(parsed)
		}
	}
	h := sha256.New()
	if text != "" {
		h.Write([]byte("limpet Nats-Msg-Id " + text))
	} else {
		place := binary.BigEndian.AppendUint64([]byte("limpet place "), m.seq)
		place = binary.BigEndian.AppendUint64(place, uint64(m.at.UnixNano()))
		h.Write(append(place, m.subject+"\x00"...))
		h.Write(m.data)
	}
	copy(id[:], h.Sum(nil))
	return id
}
