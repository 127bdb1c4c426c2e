package cni_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/warrennet/warren/cni"
)

// A container runtime executes the plugin with the command in CNI_COMMAND and the configuration on stdin, and reads a
// result or an error from stdout. Here it calls VERSION, then ADD without the variables that ADD requires.
func ExampleRun() {
	for _, command := range []string{"VERSION", "ADD"} {
		code := cni.Run(cni.Process{
			Getenv: func(name string) string { return map[string]string{"CNI_COMMAND": command, "CNI_IFNAME": "eth0"}[name] },
			Stdin:  strings.NewReader(`{"cniVersion":"1.1.0","name":"podnet","type":"warren-cni"}`),
			Stdout: os.Stdout,
		})
		fmt.Println(command, "exit code", code)
	}
	// Output:
	// {"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}
	// VERSION exit code 0
	// {"cniVersion":"1.1.0","code":4,"msg":"invalid environment","details":"CNI_CONTAINERID is missing; CNI_NETNS is missing"}
	// ADD exit code 1
}
