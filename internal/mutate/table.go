package main

// table has, for each guard of the repository, at least one mutation that it must catch. To add
// one: break the guarded code by hand, see the test red, and write down what was changed. The
// search text should be whole statements, so that an unrelated edit does not hit it by accident.
var table = []mutation{
	{
		name:    "mutate: green for red",
		file:    "internal/mutate/run.go",
		search:  "case failed && ran:\n\t\treturn red,",
		replace: "case failed && ran:\n\t\treturn green,",
		test:    "-run ^TestClassify$ ./internal/mutate",
	},
	{
		name:    "mutate: a tree that does not compile is red",
		file:    "internal/mutate/run.go",
		search:  "case unbuiltPackage:\n\t\treturn unbuilt,",
		replace: "case unbuiltPackage:\n\t\treturn red,",
		test:    "-run ^TestClassify$ ./internal/mutate",
	},
}
