// Once, and harmless when it is repeated: the replica set of three, and the user that Feedlab connects as.
const members = [1, 2, 3].map((n) => ({ _id: n, host: `mongodb-${n}:27017`, priority: n === 1 ? 2 : 1 }));
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "feedlab", members });
}
while (!db.hello().isWritablePrimary) sleep(500);

const feedlab = db.getSiblingDB("feedlab");
const user = { pwd: process.env.FEEDLAB_PASSWORD, roles: [{ role: "readWrite", db: "feedlab" }] };
if (feedlab.getUser("feedlab")) feedlab.updateUser("feedlab", user); // .env may have another password
else feedlab.createUser({ user: "feedlab", ...user });
