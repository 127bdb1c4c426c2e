package cni

import (
	"net/netip"
	"strconv"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/internal/api"
)

// The agent's wire types, written and read by hand; a test holds them against encoding/json and the types.

func object(fill func(*tree.Writer)) []byte {
	var w tree.Writer
	w.Object(func() { fill(&w) })
	return w.Bytes()
}

func writeAttachment(w *tree.Writer, a api.Attachment, ifName string) {
	w.Name("containerID").Text(a.ContainerID)
	w.Name(ifName).Text(a.IfName)
}

func writeAdd(q api.AddRequest) []byte {
	return object(func(w *tree.Writer) {
		writeAttachment(w, q.Attachment, "ifName")
		w.Name("network").Text(q.Network)
		w.Name("netns").Text(q.Netns)
		for _, f := range [][2]string{{"podNamespace", q.PodNamespace}, {"podName", q.PodName}, {"podUID", q.PodUID}, {"mac", q.MAC}} {
			if f[1] != "" {
				w.Name(f[0]).Text(f[1])
			}
		}
		if len(q.IPs) > 0 {
			w.Name("ips").Array(func() {
				for _, a := range q.IPs {
					w.Text(a.String())
				}
			})
		}
		if len(q.Labels) > 0 {
			w.Name("labels").Object(func() {
				for k, v := range q.Labels {
					w.Name(k).Text(v)
				}
			})
		}
		if len(q.PortMappings) > 0 {
			w.Name("portMappings").Array(func() {
				for _, m := range q.PortMappings {
					w.Object(func() { writeMapping(w, m) })
				}
			})
		}
		w.Name("dns").Object(func() {
			texts(w, "servers", q.DNS.Servers)
			texts(w, "searches", q.DNS.Searches)
			texts(w, "options", q.DNS.Options)
		})
	})
}

func writeMapping(w *tree.Writer, m api.PortMapping) {
	w.Name("protocol").Text(m.Protocol)
	w.Name("hostPort").Raw(strconv.AppendUint(nil, uint64(m.HostPort), 10))
	w.Name("containerPort").Raw(strconv.AppendUint(nil, uint64(m.ContainerPort), 10))
	if m.HostIP.IsValid() {
		w.Name("hostIP").Text(m.HostIP.String())
	}
}

func writeCommit(q api.CommitRequest) []byte {
	return object(func(w *tree.Writer) {
		writeAttachment(w, q.Attachment, "ifName")
		w.Name("mac").Text(q.MAC)
	})
}

func writeDel(q api.DelRequest) []byte {
	return object(func(w *tree.Writer) { writeAttachment(w, q.Attachment, "ifName") })
}

func writeGC(q api.GCRequest) []byte {
	return object(func(w *tree.Writer) {
		w.Name("network").Text(q.Network)
		w.Name("valid").Array(func() {
			for _, a := range q.Valid {
				w.Object(func() { writeAttachment(w, a, "ifName") })
			}
		})
	})
}

func readAdd(v tree.Value) (r api.AddReply) {
	in := reader{in: v}
	for _, s := range in.texts("addresses") {
		if a, err := netip.ParseAddr(s); err == nil {
			r.Addresses = append(r.Addresses, a)
		}
	}
	r.HostIfName = in.text("hostIfName")
	r.MTU, r.Table, r.Protocol = number(v, "mtu"), number(v, "table"), number(v, "protocol")
	d := in.inside("dns")
	r.DNS = api.DNS{Servers: d.texts("servers"), Searches: d.texts("searches"), Options: d.texts("options")}
	return r
}

func readStatus(v tree.Value) api.StatusReply {
	return api.StatusReply{Code: number(v, "code"), Reason: v.Get("reason").Text}
}

func readError(v tree.Value) *api.Error {
	return &api.Error{Code: number(v, "code"), Message: v.Get("message").Text, Details: v.Get("details").Text}
}

// number reads an integer, 0 where there is none.
func number(v tree.Value, key string) int {
	n, _ := strconv.Atoi(string(v.Get(key).Raw))
	return n
}
