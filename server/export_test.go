package server

import (
	"unsafe"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// RecordSize is the memory of an idle session with an empty window.
const RecordSize = unsafe.Sizeof(record{})

// Plant marks seqs as accepted in the record of a session, as if a store had
// accepted them in another order.
func (s *Server) Plant(sid string, id func(seq uint64) wire.ID, seqs ...uint64) {
	s.sessions.mu.Lock()
	t := s.sessions.m[sid]
	s.sessions.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seq := range seqs {
		t.rec.mark(seq, id(seq), 0)
	}
}

// BeginsAfterTheEnd reports whether a peer whose connection is ending begins to apply a batch.
func BeginsAfterTheEnd() bool {
	p := &peer{end: &ending{code: native.CloseGoingAway}}
	return p.beginBatch()
}
