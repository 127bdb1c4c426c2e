// Package zone compiles snapshots into the DNS answers of the cluster zone.
//
// An Index holds prepared records in wire form for every name below the cluster domain, for node.warren and for the reverse
// names of the Pod and Service ranges. It is immutable and swapped as a whole. A Builder compiles the next index and reuses
// the compiled form of each Service that has not changed. The package has no goroutines, no sockets and no clock.
//
//	index.go    from a question to a result, and from a result to an answer
//	builder.go  from a snapshot to an index
//	diff.go     which Services have to be compiled again
//	service.go  the names of one Service
//	reverse.go  PTR records, and which Service owns those of an address
//	caps.go     bounds of one Service
package zone
