package budget

const headerCost = 64 // of an entry, beside its content

// PayloadCost returns what payloads of size bytes together cost: the allocator rounds up.
func PayloadCost(size int64) int64 { return size + size>>3 }

// TextsCost returns what the texts of a message cost, beside its payload.
func TextsCost(contentType, tag string, header map[string]string) int64 {
	n := int64(len(contentType) + len(tag))
	if header != nil {
		n += headersCost(header)
	}
	return n
}

func headersCost(header map[string]string) (n int64) {
	for name, value := range header {
		n += int64(headerCost + len(name) + len(value))
	}
	return n
}
