package servicelb

import (
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// The types of the internal packages that callers use.
type (
	// Table is everything that the packet path looks up. It is immutable.
	Table = table.Table
	// Builder makes tables incrementally.
	Builder = table.Builder
	// Self describes the node that a table is for.
	Self = table.Self
	// Source is the node's source address towards a destination.
	Source = table.Source
	// Port is a port of a protocol.
	Port = table.Port
	// ExternalPort is a port of an external IP.
	ExternalPort = table.ExternalPort
	// Refusal is an address that an object claims and does not have.
	Refusal = table.Refusal
	// Redirects is what the host must redirect to warren0.
	Redirects = table.Redirects
	// Frontend is a copy of one entry of a Table.
	Frontend = table.FrontendInfo
	// Flow is a copy of one flow.
	Flow = conntrack.Flow
	// Traffic is what a Service has forwarded.
	Traffic = traffic.Traffic
	// Volume counts packets and bytes.
	Volume = traffic.Volume
)

// Annotations of a Service, and the name of the sum in Stats.Services.
const (
	Annotation      = table.Annotation
	EjectAnnotation = table.EjectAnnotation
	OtherServices   = traffic.OtherServices
)

// Build compiles a snapshot into the table of one node. It is pure: the same input gives the same table.
func Build(self Self, snap *model.Snapshot) *Table { return table.Build(self, snap) }
