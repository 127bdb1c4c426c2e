// Package table compiles Services, EndpointSlices and host ports into the table that the packet path looks up.
//
// A Table is immutable. A Builder makes one Table from each snapshot and compiles only the Services that differ between
// two snapshots; the Tables share the unchanged parts (persistentmap.go). Compilation is pure: no clock, no logger, no
// kernel. Two things inside a Table change after it was made, because packets change them: the round-robin counter of a
// Pool and the ejection Record of a backend (ejection.go). Both are atomic.
//
// In the order of the work: diff.go (which Services changed) -> builder.go -> endpoints.go and compile.go (one Service
// becomes frontends and pools) -> patch.go (the frontends enter the table) -> policyroutes.go (what the host must
// redirect to warren0). addresses.go classifies addresses.
package table
