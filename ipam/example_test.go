package ipam_test

import (
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// A node attaches a Pod: it reserves addresses for the attachment, configures the interface and commits. The record
// remains until the Pod is detached, also across restarts of the agent.
func ExamplePool() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool, err := ipam.OpenPool(ipam.PoolConfig{Dir: dir, BootID: "1b4e28ba", Blocks: []netip.Prefix{
		netip.MustParsePrefix("10.42.7.0/24"), netip.MustParsePrefix("fd42:0:0:7::/64")}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	web := api.Attachment{ContainerID: "f00d", IfName: "eth0"}
	record, _, err := pool.Reserve(ipam.Record{Attachment: web, PodNamespace: "shop", PodName: "web-0"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("reserved", record.Addresses)
	if record, err = pool.Commit(web, "02:00:00:00:00:01"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("attached", record.Committed)

	db := api.Attachment{ContainerID: "beef", IfName: "eth0"}
	_, _, err = pool.Reserve(ipam.Record{Attachment: db, Requested: record.Addresses[:1]})
	fmt.Println("refused:", err)

	record, _, err = pool.Release(web)
	fmt.Println("released", record.Addresses, err)
	// Output:
	// reserved [10.42.7.3 fd42:0:0:7::3]
	// attached true
	// refused: address 10.42.7.3 is held by container f00d, interface eth0
	// released [10.42.7.3 fd42:0:0:7::3] <nil>
}
