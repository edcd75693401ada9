package feed

import (
	"encoding/json"
	"slices"

	"github.com/limpet-go/limpet/wire"
)

// request is a compiled Request.
type request struct {
	head              []byte // the constant members, without the closing brace
	channel, product  string // members; channel is empty if the request names none
	manyCh, manyProds bool   // these members hold lists
	max               int    // products in one message
}

func newRequest(r *Request) *request {
	q := &request{
		head:      []byte{'{'},
		channel:   r.Channel + r.Channels,
		product:   r.Product + r.Products,
		manyCh:    r.Channels != "",
		manyProds: r.Products != "",
		max:       r.Max,
	}
	if q.max == 0 {
		q.max = 100
	}
	if !q.manyProds {
		q.max = 1
	}
	for _, f := range r.Fields {
		q.head = q.member(q.head, f.Name)
		q.head = append(q.head, f.JSON...)
	}
	return q
}

// group is a set of channels that are requested with the same products.
type group struct {
	channels []string
	products []string
}

// write appends the messages for topics, which must be valid.
func (q *request) write(d *dialect, topics []string, out *wire.Frames) {
	for _, g := range q.groups(d, topics) {
		for products := range slices.Chunk(g.products, q.max) {
			b := slices.Clone(q.head)
			b = q.member(b, q.product)
			b = list(b, products, q.manyProds)
			if q.channel != "" {
				b = q.member(b, q.channel)
				b = list(b, g.channels, q.manyCh)
			}
			out.Append(wire.Text, append(b, '}'))
		}
	}
}

// groups collects the products of each channel, in order of appearance, and
// joins channels with the same products if one message may name several.
func (q *request) groups(d *dialect, topics []string) []group {
	products := make([][]string, len(d.channels))
	var order []int
	for _, topic := range topics {
		c, product, err := d.split(topic)
		if err != nil {
			continue // unreachable: Open and Encode have checked them
		}
		if products[c.index] == nil {
			order = append(order, c.index)
		}
		products[c.index] = append(products[c.index], product)
	}
	var groups []group
	for _, i := range order {
		name := d.channels[i].request
		same := slices.IndexFunc(groups, func(g group) bool { return slices.Equal(g.products, products[i]) })
		if q.manyCh && same >= 0 {
			groups[same].channels = append(groups[same].channels, name)
			continue
		}
		groups = append(groups, group{[]string{name}, products[i]})
	}
	return groups
}

// member appends the name of the next member of an object.
func (q *request) member(b []byte, name string) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	return append(quote(b, name), ':')
}

// list appends values as a JSON array, or the first one as a string.
func list(b []byte, values []string, many bool) []byte {
	if !many {
		return quote(b, values[0])
	}
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(b, v)
	}
	return append(b, ']')
}

// quote appends s, which must be UTF-8, as a JSON string.
func quote(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // unreachable: a string always has a JSON form
	}
	return append(b, text...)
}
