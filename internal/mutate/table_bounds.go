package main

// ofBounds: what must not grow with the number of subscriptions, and what must not
// depend on the speed of the link.
var ofBounds = []mutation{
	{
		name:    "registry: a removal moves all others",
		file:    "registry.go",
		search:  "if r.removed <= len(r.subs)/2 {",
		replace: "if r.removed == 0 {",
		test:    "-run ^TestRegistryMovesFew$ .",
	},
	{
		name:    "registry: what is due has no order",
		file:    "registry.go",
		search:  "slices.SortFunc(taken, func(a, b *Subscription) int { return a.place - b.place })",
		replace: "slices.SortFunc(taken, func(a, b *Subscription) int { return b.place - a.place })",
		test:    "-run ^TestDueInOrderOfRegistration$ .",
	},
	{
		name:    "server: the first subscription takes every turn",
		file:    "server/write.go",
		search:  "\t\tw.due.Drop(1)\n\t\ts.due = false\n\t\tif more {\n",
		replace: "\t\tif more {\n\t\t\tbreak\n\t\t}\n\t\tw.due.Drop(1)\n\t\ts.due = false\n\t\tif more {\n",
		test:    "-run ^TestTurns$ ./server",
	},
}
