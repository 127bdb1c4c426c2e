// A container for the podman test: it prints its interfaces and addresses, and sleeps when it has an argument.
package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	ifs, err := net.Interfaces()
	if err != nil {
		fmt.Println(err)
	}
	for _, i := range ifs {
		a, _ := i.Addrs()
		fmt.Println(i.Name, i.MTU, i.HardwareAddr, a)
	}
	if len(os.Args) > 1 {
		time.Sleep(time.Hour)
	}
}
