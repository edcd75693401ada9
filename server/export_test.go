package server

import (
	"context"
	"unsafe"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// RecordSize is the memory of an idle session with an empty window.
const RecordSize = unsafe.Sizeof(record{})

// Plant marks seqs as accepted in the record of a session, as if a store had
// accepted them in another order.
func (s *Server) Plant(sid string, id func(seq uint64) wire.ID, seqs ...uint64) {
	r, version, err := s.load(context.Background(), sid)
	if err != nil {
		panic(err)
	}
	for _, seq := range seqs {
		r.mark(seq, id(seq), 0, false)
	}
	if _, err := s.store.Commit(context.Background(), &Change{Session: sid, Version: version, Record: r.append(nil), TTL: r.ttl, Bound: r.bound}); err != nil {
		panic(err)
	}
}

// BeginsAfterTheEnd reports whether a peer whose connection is ending begins to apply a batch.
func BeginsAfterTheEnd() bool {
	p := &peer{end: &ending{code: native.CloseGoingAway}}
	return p.beginBatch()
}
