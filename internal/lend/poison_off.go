//go:build !race && !limpetdebug

package lend

// Poisons reports whether payloads that go back are overwritten, and their memory is not used
// again.
const Poisons = false
