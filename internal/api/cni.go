// Package api holds the wire types of the agent's local API: JSON over HTTP/1.1 on a root-only unix socket
// (/run/warren/agent.sock). The agent serves it; the CNI plugin and the command line are its clients. The package has
// types and the names that both sides derive. It has no state and no goroutine, and imports the standard library only,
// because the plugin must stay small.
package api

import "net/netip"

// Paths of the calls that the CNI plugin makes. All are POST but CNIStatus, which is GET.
const (
	CNIAddPath    = "/v1/cni/add"    // AddRequest -> AddReply: reserves addresses for the life of the connection
	CNICommitPath = "/v1/cni/commit" // CommitRequest: the interface is complete, keep the reservation
	CNIDelPath    = "/v1/cni/del"    // DelRequest -> DelReply: release; succeeds if nothing is left
	CNICheckPath  = "/v1/cni/check"  // DelRequest -> AddReply: the record of the attachment, 404 without one
	CNIGCPath     = "/v1/cni/gc"     // GCRequest -> GCReply
	CNIStatusPath = "/v1/cni/status" // StatusReply
)

// Error is the body of every response with a status other than 200.
type Error struct {
	Code    int    `json:"code"` // CNI error code (CNI spec 1.1.0, section 5), 0 where none applies
	Message string `json:"message"`
	Details string `json:"details,omitempty"`
}

// Attachment names one interface of one container: the key of a record (CNI spec: container id + interface name).
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// DNS is a Pod's resolver configuration, as the CNI capability `dns` carries it.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// AddRequest requests addresses for the interface of a container.
type AddRequest struct {
	Attachment
	Network      string            `json:"network"` // name of the CNI network configuration
	Netns        string            `json:"netns"`
	PodNamespace string            `json:"podNamespace,omitempty"`
	PodName      string            `json:"podName,omitempty"`
	PodUID       string            `json:"podUID,omitempty"`
	IPs          []netip.Addr      `json:"ips,omitempty"` // requested by the capability `ips`
	MAC          string            `json:"mac,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"` // args.cni.labels
	DNS          DNS               `json:"dns"`
	PortMappings []PortMapping     `json:"portMappings,omitempty"` // capability portMappings
}

// PortMapping maps a port of the node to a port of the Pod (CNI conventions, portMappings).
type PortMapping struct {
	Protocol      string     `json:"protocol"` // tcp, udp or sctp
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	HostIP        netip.Addr `json:"hostIP,omitzero"` // unset: every address of the node
}

// AddReply describes the interface that the plugin must make.
type AddReply struct {
	Addresses  []netip.Addr `json:"addresses"` // one per family of the cluster, in the cluster's order
	HostIfName string       `json:"hostIfName"`
	MTU        int          `json:"mtu"`   // bytes, of the tunnel
	Table      int          `json:"table"` // routing table for the routes of the host to Pods
	Protocol   int          `json:"protocol"`
	DNS        DNS          `json:"dns"` // to be returned in the result
}

// CommitRequest ends an ADD: the interface is complete.
type CommitRequest struct {
	Attachment
	MAC string `json:"mac"` // of the Pod's end
}

// DelRequest names the attachment to be released or checked.
type DelRequest struct {
	Attachment
}

// DelReply describes what was released. HostIfName is empty if there was no record.
type DelReply struct {
	HostIfName string       `json:"hostIfName,omitempty"`
	Addresses  []netip.Addr `json:"addresses,omitempty"`
}

// GCRequest names the valid attachments of a network; all others of that network are removed.
type GCRequest struct {
	Network string       `json:"network"`
	Valid   []Attachment `json:"valid"`
}

// GCReply lists what was removed.
type GCReply struct {
	Removed []Attachment `json:"removed"`
}

// StatusReply reports whether ADD is possible. Code is 0, or 50 or 51 of the CNI spec with the reason.
type StatusReply struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// Codes of Error and StatusReply. Those below 100 are the CNI spec's (1.1.0, section 5), the others warren's own.
const (
	CodeVersion     = 1  // incompatible CNI version
	CodeUnsupported = 2  // a field that is not supported
	CodeUnknown     = 3  // unknown container: nothing needs to be cleaned up
	CodeEnvironment = 4  // invalid CNI_* variable
	CodeIO          = 5  // I/O failure
	CodeDecode      = 6  // undecodable content
	CodeConfig      = 7  // invalid network configuration
	CodeTryAgain    = 11 // transient
	CodeUnavailable = 50 // ADD is not possible
	CodeLimited     = 51 // ADD is not possible, and Pods may have limited connectivity

	CodeAttached = 100 // the attachment exists already
	CodeHeld     = 101 // a requested address belongs to another attachment, or is in no block of the node
	CodeFull     = 102 // no address is left in the node's blocks
	CodeKernel   = 103 // an interface, address, route or filter could not be made
	CodeMissing  = 104 // CHECK: something that ADD made is missing or has changed
	CodeHostPort = 105 // a host port that the Pod cannot have
	CodeInternal = 999
)

// Error returns message and details in one line.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Message
	}
	return e.Message + ": " + e.Details
}
