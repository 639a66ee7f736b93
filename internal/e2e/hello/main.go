// Command hello is the least function with the same clients: what a cold start
// of the relay is compared with.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync"

	"cloud.google.com/go/firestore/apiv1"
	"cloud.google.com/go/pubsub/v2"
	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func init() {
	var once sync.Once
	functions.HTTP("Hello", func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { clients(context.WithoutCancel(r.Context())) })
		fmt.Fprintln(w, "hello")
	})
}

// clients makes the three clients, which is all that the function does with them
// before its first call.
func clients(ctx context.Context) {
	local := []option.ClientOption{
		option.WithEndpoint(os.Getenv("FIRESTORE_EMULATOR_HOST")), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
	if _, err := firestore.NewClient(ctx, local...); err != nil {
		log.Fatal(err)
	}
	if _, err := pubsub.NewClient(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT")); err != nil {
		log.Fatal(err)
	}
	if _, err := secretmanager.NewClient(ctx, local...); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if err := funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}
