// Command dnsbench has the parts of the DNS suite of `make bench`: servers that answer the same names, the files that
// configure other servers with those names, and a load generator that saturates a server.
//
//	dnsbench files DIR N                     zone, reverse zone, Corefile's zones and the questions for N Services
//	dnsbench serve warren|miekg ADDR N       answer these names
//	dnsbench load ADDR QUESTIONS SECONDS RATE  query them; RATE 0: as fast as answers arrive
package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/warrennet/warren/internal/model"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dnsbench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: dnsbench files DIR N | serve warren|miekg ADDR N | load ADDR QUESTIONS SECONDS RATE")
	}
	switch verb := args[0]; {
	case verb == "files" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return files(args[1], n)
	case verb == "serve" && len(args) == 4:
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		if args[1] == "warren" {
			return serveWarren(args[2], n)
		}
		return serveMap(args[2], n)
	case verb == "load" && len(args) == 5:
		return load(args[1], args[2], args[3], args[4])
	}
	return fmt.Errorf("unknown verb %q", args[0])
}

// service returns the name and the address of Service i.
func service(i int) (string, netip.Addr) {
	return fmt.Sprintf("svc-%d", i), netip.AddrFrom4([4]byte{10, 96, byte(i / 250), byte(i%250 + 1)})
}

func snapshot(n int) *model.Snapshot {
	s := &model.Snapshot{Revision: 1, Cluster: model.Cluster{Domain: "cluster.local"},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
	for i := range n {
		name, a := service(i)
		s.Services = append(s.Services, model.Service{ObjectName: model.ObjectName{Namespace: "default", Name: name},
			ClusterIPs: []netip.Addr{a},
			Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}})
	}
	return s
}
